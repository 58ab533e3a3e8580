"""Causes before consequences: who went, which worker failed first over all nodes, and what the job came to.

A worker's death lies between its last own record and the first word on its end, unless somebody recorded the time itself.
Two deaths are told in an order only where these spans do not overlap: what the records do not tell is unknown.

One file although it is long: each of these conclusions rests on the ones before it.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

from elastic_events.reading.clocks import LOOK
from elastic_events.reading.ranks import Ranks
from elastic_events.reading.said import BROKE
from elastic_events.reading.story import Attempt, Node, Offset, Story, Worker

__all__ = ("AT_ONCE", "OUTCOMES", "conclude")

#: What an attempt ended as where its agents differ: the first of these that any of them says.
OUTCOMES = ("failed", "stopped", "membership", "left", "succeeded", "unknown")

#: Signals that a process gets from its own fault or from outside, never since a peer of it is gone.
_OWN = frozenset({"SIGKILL", "SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"})

#: Nanoseconds from where a script begins to end, and its peers break, to its own word on it: `finally:` comes before that.
_TEARDOWN = 3_000_000_000

#: Those of which a process has ended at once, whatever it did.
AT_ONCE = frozenset({"SIGKILL", "SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE"})

#: Nanoseconds that an agent may take to start its workers, before it tells of the first, which may be dead by then.
_SPAWN = 60_000_000_000

#: Nanoseconds by which the clock of a host may be wrong that met no other host in a rendezvous.
_ANY = 10**18

#: Nanoseconds after the last sign of life of an attempt within which a collector's word is of the death, not of a recovery.
_FRESH = 5_000_000_000


def conclude(story: Story, ranks: Ranks) -> None:
    """Tell what follows from all facts of a story: ends, departures, first failures, outcomes."""
    last = _last_attempts(story)
    _last_signs(story, ranks, last)
    top = max(last.values(), default=-1)
    for node in story.nodes:
        if node.agent:
            node.gone = _gone(story, node, last, top)
    errors = {host: _error(offset) for host, offset in story.offsets.items()}
    errors[story.reference] = 0
    sized = any(attempt.world_size or attempt.group_size for attempt in story.attempts)
    for attempt in story.attempts:
        attempt.unread = _unread(attempt, sized)
        attempt.gone = [node for node in attempt.nodes if node.gone and last[node] == attempt.number]
        _end(attempt, ranks, _last_sign(attempt) + _FRESH)
        _stop(attempt, last)
        attempt.outcome = _joint(attempt, top)
        _order(attempt, errors)
    story.restarts = _restarts(story)
    story.membership_changes = sum(_changed(before, after) for before, after in pairwise(story.attempts))
    story.unread = story.attempts[-1].unread if story.attempts else 0
    voters = _voters(story)
    story.outcome = _outcome(story, voters)
    decided = [node for node in voters if node.outcome == "failed"] if story.outcome == "failed" else []
    own = {worker.node for attempt in story.attempts[-1:] for worker in attempt.workers if _by_itself(worker)}
    # Others fail of its end: with the agent that holds it goes the rendezvous.
    decided.sort(key=lambda node: (node.signal is not None, node not in own, node.ended_ns or 0))
    story.reason = _reason(decided[0]) if decided else ""


# --- nodes ---


def _last_attempts(story: Story) -> dict[Node, int]:
    """Return, for each node, the number of the last attempt that it was in; one more where it then gathered in vain."""
    last = dict.fromkeys(story.nodes, -1)
    for attempt in story.attempts:
        last.update(dict.fromkeys(attempt.nodes, attempt.number))
    members = set(story.attempts[-1].nodes) if story.attempts else set()
    finished = any(node.outcome == "succeeded" for node in members)
    for rendezvous in story.gathering:
        node = rendezvous.node
        if node.outcome != "left" and (node in members or not finished):
            last[node] = len(story.attempts)
    return last


def _last_signs(story: Story, ranks: Ranks, last: Mapping[Node, int]) -> None:
    for attempt in story.attempts:
        for worker in attempt.workers:
            node, process = worker.node, worker.process
            if node is not None and process is not None and last.get(node, -1) <= attempt.number:
                node.last_ns = max(node.last_ns, process.last_ns)
    for node in story.nodes:
        death = ranks.death(node.host, node.pid, node.first_ns) if node.agent and node.outcome == "unknown" else None
        if death is not None:
            node.outcome, node.signal, node.died_ns = "died", death.signal, death.time_ns


def _gone(story: Story, node: Node, last: Mapping[Node, int], top: int) -> str:
    """Return how a node went while others remained; empty where it stayed, or was the only one."""
    if node.outcome in ("died", "left"):
        return node.outcome
    if node.outcome == "succeeded":
        return ""
    others = [other for other in story.nodes if other.agent and other is not node]
    without = last[node] < top  # others went on
    if node.outcome == "failed":
        if not node.signal:
            # Who came only when it had ended, as a job that is started again, was not there to go on without it.
            there = any(last[other] > last[node] and other.first_ns <= (node.ended_ns or _ANY) for other in others)
            return "failed" if there and without and top < len(story.attempts) else ""
        stayed = any(other.outcome in ("succeeded", "failed") and not other.signal for other in others)
        return "left" if without or stayed else ""
    ends = story.attempts[last[node]].ends.get(node) if 0 <= last[node] < len(story.attempts) else None
    if without and ends is not None and ends[1] in ("stopped", "left"):
        return "left"  # its last word was lost
    ended = max((other.ended_ns or 0 for other in others), default=0)
    return "silent" if without or ended > node.last_ns else ""


def _voters(story: Story) -> list[Node]:
    """Return the agents that decide the outcome: those of the last attempt, and those that tried to make another one."""
    members = story.attempts[-1].nodes if story.attempts else []
    if not members:  # who told the job told no attempts
        return [node for node in story.nodes if node.agent]
    last = _last_attempts(story)
    gathered = [node for node in story.nodes if last[node] == len(story.attempts)]
    if any(node in gathered for node in members):
        members = [node for node in members if not node.gone or node.gone == "failed"]
    return list(dict.fromkeys([*members, *gathered]))


def _reason(node: Node) -> str:
    """Return why a node's agent failed; torch's own word on a signal names a class and a number."""
    return f"its agent got {node.signal}" if node.signal else node.reason


def _outcome(story: Story, voters: Iterable[Node]) -> str:
    said = {"stopped" if node.outcome == "failed" and node.signal else node.outcome for node in voters}
    if "failed" in said:
        return "failed"
    if "unknown" in said or story.unread:
        return "unknown"
    if "succeeded" in said:
        return "succeeded"
    return "failed" if said & {"stopped", "died"} else "unknown"


# --- attempts ---


def _unread(attempt: Attempt, sized: bool) -> int:
    """Return how many nodes an attempt had of which no agent's record was read, at least.

    1 where a rank is missing, or where nobody says how many there were, but of other attempts somebody does: its start was
    lost.
    """
    if not attempt.nodes:
        return 0
    if attempt.group_size:
        return max(0, attempt.group_size - len(attempt.nodes))
    if sized and not attempt.world_size:
        return 1
    ranks = {worker.rank for worker in attempt.workers if worker.rank is not None}
    return int(len(ranks) < max(attempt.world_size or 0, *(rank + 1 for rank in ranks), 0))


def _joint(attempt: Attempt, top: int) -> str:
    """Return what an attempt ended as, for all nodes that remained; unknown while one of them has not said."""
    silent = [node for node in attempt.gone if node.gone == "silent" and attempt.number == top]
    voters = [node for node in attempt.nodes if node not in attempt.gone or node.gone == "failed" or node in silent]
    voters = voters if len(voters) > len(silent) else attempt.nodes
    said = {attempt.ends[node][1] for node in voters if node in attempt.ends}
    # Who fell silent after it had told the end may have gone on, and its records were lost.
    told = {attempt.ends[node][1] for node in attempt.gone if node.gone == "silent" and node in attempt.ends}
    if "failed" in said | told:
        return "failed"
    if not voters or attempt.unread or any(node not in attempt.ends for node in voters):
        return "unknown"
    outcome = min(said, key=OUTCOMES.index)
    if outcome == "membership" and any(node.gone == "silent" and node not in attempt.ends for node in attempt.gone):
        return "unknown"  # who fell silent may have had the failure that the others saw as a change of members
    return outcome


def _restarts(story: Story) -> int | None:
    outcomes = [attempt.outcome for attempt in story.attempts[:-1]]
    told = max((node.restarts for node in story.nodes), default=0)
    counted = outcomes.count("failed")
    return None if "unknown" in outcomes or told > counted else counted  # attempts are missing


def _changed(before: Attempt, after: Attempt) -> bool:
    """Whether nodes came or went between two attempts, after a failure as well."""
    sizes = [(before.world_size, after.world_size), (before.group_size, after.group_size)]
    return before.outcome == "membership" or any(a and b and a != b for a, b in sizes)


# --- workers ---


def _last_sign(attempt: Attempt) -> int:
    """Return when anybody of an attempt recorded last: who began anew much later may find its dead."""
    told = [worker.process for worker in attempt.workers if worker.process is not None]
    signs = [process.last_ns for process in told if not process.mute] or [process.last_ns for process in told]
    return max([*signs, *(node.last_ns for node in attempt.nodes)], default=0)


def _end(attempt: Attempt, ranks: Ranks, fresh_ns: int) -> None:
    """Tell when each worker ended, as far as anybody knows."""
    for worker in attempt.workers:
        node, process = worker.node, worker.process
        since = process.first_ns if process is not None else worker.started_ns or 0
        _disbelieve(worker)
        death = ranks.death(worker.host, worker.pid, since)
        agent = node is not None and node.agent
        untold = not agent and worker.done_ns is None  # nobody else will say of what it died
        if death is not None and worker.outcome == "unknown" and (death.signal or death.exit_code or untold):
            worker.outcome, worker.signal, worker.exit_code = "failed", death.signal, death.exit_code
        if worker.outcome == "unknown" and not agent and worker.ended_by_exception:  # nobody else will say so
            worker.outcome = "failed"
        ends = [worker.ended_ns, attempt.ends[node][0] if node in attempt.ends else None]
        if death is not None and death.time_ns <= fresh_ns:
            ends.append(death.time_ns)
        known = [end for end in ends if end is not None]
        if death is not None and not known:
            worker.found_ns = death.time_ns
        if worker.died_ns is not None:
            worker.ended_ns = worker.died_ns
        elif known:
            worker.ended_ns = min(known)
        elif node is not None and (node.gone or not agent):
            worker.ended_ns = process.last_ns if process is not None else node.last_ns or attempt.ended_ns
        else:
            worker.ended_ns = attempt.ended_ns


def _by_itself(worker: Worker) -> bool:
    return worker.outcome == "failed" and not worker.victim and not worker.consequence


def _disbelieve(worker: Worker) -> None:
    """Take no death for one that was before the worker was started, or before it recorded: a clock was set in between."""
    process = worker.process
    alive = process.last_ns if process is not None and not process.mute else 0
    if worker.died_ns is not None and worker.died_ns < max(
        (worker.started_ns or 0) - _SPAWN, alive - round(LOOK * 1e9)
    ):
        worker.died_ns = worker.alive_ns = None


def _stop(attempt: Attempt, last: Mapping[Node, int]) -> None:
    """Take what died of the signal that stopped its agent for a victim, whoever sent it: a batch system signals all."""
    for worker in attempt.workers:
        node = worker.node
        if node is None or not node.signal or not worker.is_of(node.signal):
            continue
        if node in attempt.gone or (node.outcome == "failed" and last[node] == attempt.number):
            worker.victim, worker.first = True, False


# --- the first failure ---


def _order(attempt: Attempt, errors: Mapping[str, int]) -> None:
    """Tell which worker failed first by itself, and which only since another, or a whole node, was gone."""
    failed = [worker for worker in attempt.workers if worker.outcome == "failed" and not worker.victim]
    stopped = [node for node, (_, outcome) in attempt.ends.items() if outcome in ("stopped", "left")]
    for worker in failed:
        worker.consequence = worker.signal not in _OWN and any(
            node is not worker.node
            and _latest(worker) + _between(worker.host, node.host, errors) >= _alive(attempt, node)
            for node in (*attempt.gone, *stopped)
        )
    own = [worker for worker in failed if not worker.consequence]
    perhaps = [worker for worker in failed if worker.consequence]  # the node may as well have gone after it
    # Which of its own was first an agent knows, but for those that it found dead in one look; without its word, any of them.
    knowing = {worker.node: _latest(worker) for worker in failed if worker.first}
    candidates = [
        worker
        for worker in own
        if worker.first
        or worker.node not in knowing
        or (worker.alive_ns is not None and _earliest(worker) < knowing[worker.node])
    ]
    if not candidates:
        return
    first = min(candidates, key=lambda worker: (worker.ended_ns or 0, worker.signal is None))
    early = _raised_before(attempt, first, errors)
    if early is not None:
        first = early
        first.victim = first.consequence = False
    failed_ns = _latest(first) if early is None else early.raised_ns or 0

    def after(worker: Worker) -> bool:
        between = 0 if worker.node is first.node else _between(first.host, worker.host, errors)
        raised_ns = worker.raised_ns if early is not None else None
        return failed_ns + between <= (_earliest(worker) if raised_ns is None else raised_ns)

    suspects = [first, *(w for w in (*candidates, *perhaps) if w is not first and not after(w))]
    if early is None:
        suspects += [w for w in _perhaps_breaking(attempt, first, errors, knowing) if w not in suspects]
    suspects += [w for w in _untold(attempt, first, failed_ns, errors) if w.host == first.host]
    if len(suspects) == 1 and not _open(attempt, first, failed_ns, errors):
        attempt.first_failure = first
    else:
        attempt.suspects = sorted(suspects, key=lambda w: (w.outcome != "failed", w.signal is None, w.ended_ns or 0))
        for worker in suspects:
            worker.consequence = False
        return
    for worker in own:
        worker.consequence = worker is not first and worker.signal not in _OWN


def _raised_before(attempt: Attempt, first: Worker, errors: Mapping[str, int]) -> Worker | None:
    """Return the worker that had raised what it ended with before `first` failed, but took longer to end; None: none.

    It waits for a thread, or for an upload, while its peers run into a timeout: its agent may even have ended it for them.
    Where `first` broke in a collective, it broke of whoever was ending by then, and not of a collective itself.
    """
    began = _began_to_end(first)
    found = [
        (raised_ns, at)
        for at, worker in enumerate(attempt.workers)
        if worker is not first
        and worker.outcome == "failed"
        and not worker.consequence
        and (raised_ns := worker.raised_ns) is not None
        and (
            raised_ns + (between := _between(worker.host, first.host, errors)) + _TEARDOWN < began
            or _broke_of(first, worker, between)
        )
    ]
    return attempt.workers[min(found)[1]] if found else None


def _perhaps_breaking(
    attempt: Attempt, first: Worker, errors: Mapping[str, int], knowing: Mapping[Node | None, int]
) -> Iterator[Worker]:
    """Give those of which `first` may have broken; not who raised as its agent ended it, which had found another dead."""
    for worker in attempt.workers:
        own = worker is not first and worker.outcome == "failed" and not worker.consequence
        ended_ns = knowing.get(worker.node) if worker.victim else None
        before = ended_ns is None or (worker.raised_ns or 0) < ended_ns
        if own and before and _broke_of(first, worker, -_between(worker.host, first.host, errors)):
            yield worker


def _broke_of(first: Worker, worker: Worker, between: int) -> bool:
    """Whether `first` broke in a collective so long after another, which did not, had raised what it ended with."""
    raised_ns = worker.raised_ns
    return raised_ns is not None and raised_ns + between < first.broke_ns and not worker.broke_ns


def _began_to_end(worker: Worker) -> int:
    """Return until when a worker surely did nothing that its peers could break of: an exit takes time, a kill does not."""
    if worker.signal in AT_ONCE:
        return _earliest(worker)
    if worker.process is None:
        return worker.started_ns or 0
    words = [time_ns for time_ns, name, _ in worker.process.said if name not in ("thread.exception", BROKE)]
    return words[-1] if words else worker.process.last_ns


def _open(attempt: Attempt, first: Worker, failed_ns: int, errors: Mapping[str, int]) -> bool:
    """Whether a worker of which the records do not tell the end may have failed before `first`."""
    if attempt.unread or any(_untold(attempt, first, failed_ns, errors)):
        return True
    workers: dict[Node | None, list[Worker]] = {}
    for worker in attempt.workers:
        workers.setdefault(worker.node, []).append(worker)
    for node in attempt.nodes:
        own = workers.get(node, [])
        if node is first.node and (first.first or node in attempt.ends):
            continue
        failed = any(worker.outcome == "failed" and not worker.victim for worker in own)
        if node in attempt.ends and (failed or attempt.ends[node][1] != "failed"):
            continue
        if any(worker.first for worker in own):
            continue
        until = failed_ns + _between(first.host, node.host, errors)
        if not own or any(worker.outcome == "unknown" and _earliest(worker) < until for worker in own):
            return True
        # A worker that was ended before, for a cause that its agent did not come to tell.
        if node not in attempt.ends and any(worker.victim and _latest(worker) <= until for worker in own):
            return True
    return False


def _untold(attempt: Attempt, first: Worker, failed_ns: int, errors: Mapping[str, int]) -> Iterator[Worker]:
    """Give the workers of which no agent tells the end, and that may have failed before: a collector sees no exit code."""
    for worker in attempt.workers:
        alone = worker.outcome == "unknown" and (worker.node is None or not worker.node.agent)
        if alone and _earliest(worker) < failed_ns + _between(first.host, worker.host, errors):
            yield worker


def _alive(attempt: Attempt, node: Node) -> int:
    """Return until when a node had surely not gone: its last sign; of one that was stopped, and tells it later, its workers'."""
    if node.gone in ("silent", "died", "failed"):
        return node.last_ns
    workers = [worker for worker in attempt.workers if worker.node is node]
    signs = [worker.process.last_ns for worker in workers if worker.process is not None]
    signs += (_latest(worker) for worker in workers if worker.outcome == "failed" and not worker.victim)
    return max(signs, default=attempt.started_ns or 0)


def _error(offset: Offset) -> int:
    """Return by how many nanoseconds a host's times may be wrong against those of others."""
    if offset.applied:
        return round(offset.error * 1e9)
    return round((abs(offset.seconds) + LOOK) * 1e9) if abs(offset.seconds) > LOOK else 0


def _between(a: str, b: str, errors: Mapping[str, int]) -> int:
    """Return by how many nanoseconds the clocks of two hosts may be apart; of one that nothing compares, any number."""
    return 0 if a == b else errors.get(a, _ANY) + errors.get(b, _ANY)


def _latest(worker: Worker) -> int:
    return max(worker.ended_ns or 0, worker.found_ns)


def _earliest(worker: Worker) -> int:
    """Return when a worker was alive for sure: at its death where that is known, or at the look before, or its last record."""
    last = worker.process.last_ns if worker.process is not None and not worker.process.mute else worker.started_ns or 0
    if worker.alive_ns is not None:
        return max(worker.alive_ns, last)
    return worker.died_ns if worker.died_ns is not None else last
