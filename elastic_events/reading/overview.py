"""A run in short: attempts, who died first and of what, its last words, how far each rank came, the ledgers."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import msgspec

from elastic_events.bus.record import Record
from elastic_events.reading.answer import Answer
from elastic_events.reading.clocks import LOOK
from elastic_events.reading.costs import Cost, Repeated, costs, repeated
from elastic_events.reading.faults import fault_of
from elastic_events.reading.said import ENDS
from elastic_events.reading.story import Attempt, Node, Process, Story, Worker
from elastic_events.reading.stuck import Stuck, stuck

__all__ = (
    "AttemptRow",
    "Clock",
    "Departure",
    "Failure",
    "Gathering",
    "LastStep",
    "Role",
    "Summary",
    "Wait",
    "Word",
    "final_worker",
    "summary",
)


_NEVER = 2**63 - 1


class Failure(msgspec.Struct, frozen=True):
    """A worker that failed by itself."""

    rank: int | None  #: of the whole job
    node: str  #: of its agent, empty if unknown
    pid: int | None  #: on its node
    signal: str | None  #: its name, where one ended it
    exit_code: int | None  #: where it ended by itself
    message: (
        str | None
    )  #: of the worker's error file, or as it said itself: type and message, or the call that ended it
    at_s: float | None  #: seconds from the beginning of the job: when it died, or when that was noticed
    noticed: bool = True  #: `at_s` is when its end was noticed
    attempt: int = 0  #: in which
    file: str | None = None  #: where it happened: the innermost frame of the script's own code
    line: int | None = None  #: in `file`
    function: str | None = None  #: the function there
    traceback: str | None = None  #: in short: frames of frameworks are folded
    stderr: str | None = None  #: the last lines of its stderr, where torchrun redirected that
    raised_s: float | None = None  #: when it raised what it ended with, as it said itself; it may have ended much later
    recorded: bool = True  #: it recorded something itself


class Departure(msgspec.Struct, frozen=True):
    """A node that went while others remained, or whose agent was killed."""

    node: str  #: its name
    how: str  #: left: stopped by a signal, or in order; failed: it gave up; died: its agent was killed; silent: it said no more
    signal: str | None  #: that its agent got, or died of
    at_s: float  #: its own word, in seconds from the beginning of the job; without one its last sign of life
    attempt: int | None  #: the last that it was in
    reason: str  #: as its agent said


class Gathering(msgspec.Struct, frozen=True):
    """How long one node was in a rendezvous that no attempt followed."""

    node: str  #: its name
    start_s: float  #: from the beginning of the job
    seconds: float  #: from its beginning to its end
    completed: bool  #: false: it failed


class Role(msgspec.Struct, frozen=True):
    """The ranks of one role."""

    role: str  #: its name
    ranks: list[int]  #: in order


class AttemptRow(msgspec.Struct, frozen=True):
    """One attempt. Seconds are None where nothing was recorded to tell them."""

    attempt: int  #: counted from 0 over the whole job, membership changes included
    round: int | None  #: of its rendezvous
    start_s: float  #: from the beginning of the job
    duration_s: float  #: from the start of its workers to its end
    rendezvous_s: float | None  #: from the first node's beginning to the last node's end
    first_step_s: float | None  #: from the start of its workers to the first rank's first step
    restart_to_step_s: float | None  #: from the end of the attempt before to the first step of this one
    world_size: int | None  #: ranks, as its agents said
    nodes: int | None  #: as its agents said
    first_step: int | None  #: the lowest that any rank began
    last_step: int | None  #: the last that any rank finished
    outcome: str  #: succeeded, failed, membership, stopped, left, unknown
    first_failure: Failure | None  #: the first to fail by itself, over all nodes; null: none, or unknown
    suspects: list[Failure]  #: where it is not known which was first: the workers that may have been
    departed: list[str]  #: nodes whose last attempt it was, while others remained
    failed: int  #: workers that failed by themselves
    consequences: int  #: of these: after another, or after a node was gone, as one fails whose peer is gone
    victims: int  #: workers ended by an agent, since another had failed
    done_before: list[int] = []  #: ranks that had ended, with exit code 0, before the first failure
    unsure: str = ""  #: what is not known of the numbers of its steps, in words; empty: nothing


class Wait(msgspec.Struct, frozen=True):
    """How long one node was in one rendezvous."""

    node: str  #: its name
    attempt: int  #: that the rendezvous made
    round: int | None  #: of the rendezvous
    seconds: float  #: from its beginning to its end


class LastStep(msgspec.Struct, frozen=True):
    """The ranks whose last finished step, in the last attempt that they were part of, is `step`; None: none."""

    step: int | None  #: its number
    ranks: list[int]  #: in order


class Clock(msgspec.Struct, frozen=True):
    """A host's clock against the reference host's."""

    host: str  #: its name
    ahead_s: float  #: negative: behind
    error_s: float  #: of `ahead_s`, at least a second
    rounds: int  #: rendezvous that it was estimated from
    corrected: bool  #: taken off all times of the host


class Word(msgspec.Struct, frozen=True):
    """One record of a worker's last ones."""

    before_death_s: float  #: before its death, or before that was noticed: see `noticed` of the failure
    name: str  #: of the event or metric
    value: str  #: metadata or value, as text


class Summary(Answer, frozen=True):
    """What `elastic-events summary --json` prints."""

    run_id: str  #: of the job
    outcome: str  #: succeeded, failed, unknown
    reason: str  #: why it failed, as its agent said
    began_ns: int  #: nanoseconds since the epoch
    wall_s: float  #: from the beginning of the job to its end, or to the last record
    nodes: list[str]  #: their names, in the order in which they came
    nodes_unread: int  #: of the last attempt, of which no record was read
    departed: list[Departure]  #: nodes that went while others remained, the first one first
    ranks: int  #: the most that an attempt had
    restarts: int | None  #: attempts that followed a failure; null: not known of each
    membership_changes: int  #: attempts before which nodes or ranks came or went
    children: int  #: processes that ranks started, and that recorded: no ranks
    roles: list[Role]  #: where workers said theirs
    attempts: list[AttemptRow]  #: in their order
    longest_waits: list[Wait]  #: in rendezvous, at most three
    gathering: list[Gathering]  #: rendezvous that no attempt followed
    costs: list[Cost]  #: of each failure
    repeated: list[Repeated]  #: ranks and nodes that failed first more than once
    stuck: list[Stuck]  #: where ranks were that made no step any more
    last_steps: list[LastStep]  #: the lowest step first
    last_words: list[Word]  #: of the first worker that failed first and recorded something itself
    last_words_of: int | None  #: its rank
    last_words_in: int | None  #: its attempt
    clocks: list[Clock]  #: of the hosts beside the reference
    unparsed: int  #: rendezvous messages of torch that were not understood
    ledgers: list[dict[str, Any]]  #: what each sink was closed with; `runs`: of so many together
    lost: dict[str, int]  #: reason -> records that were lost in the rings of their processes, before any sink
    unclosed: list[str]  #: sources, or else nodes, without a ledger: cut off, killed, or still written
    version: int = 1  #: of this schema: another one only where a field goes, or means something else


def final_worker(story: Story) -> Worker | None:
    """Return the first worker that failed first and left records of its own: the one whose last words matter."""
    return next((worker for _, worker in _firsts(story) if worker.process is not None), None)


def _firsts(story: Story) -> Iterator[tuple[Attempt, Worker]]:
    """Give the worker that failed first in each attempt; where it is not known, the first that may have been."""
    for attempt in story.attempts:
        for worker in [attempt.first_failure] if attempt.first_failure is not None else attempt.suspects[:1]:
            yield attempt, worker


def summary(story: Story, words: Mapping[Process, Sequence[Record]] | None = None) -> Summary:
    """Return the summary of a run; `words` are the last records of `final_worker(story)`."""
    dead = final_worker(story)
    last = (words or {}).get(dead.process, ()) if dead is not None and dead.process is not None else ()
    final = next((attempt.number for attempt, worker in _firsts(story) if worker is dead), None) if last else None
    return Summary(
        run_id=story.run_id,
        outcome=story.outcome,
        reason=story.reason,
        began_ns=story.began_ns,
        wall_s=story.wall_s,
        nodes=[node.name for node in story.nodes],
        nodes_unread=story.unread,
        departed=_departed(story),
        ranks=max((len(attempt.workers) for attempt in story.attempts), default=0),
        restarts=story.restarts,
        membership_changes=story.membership_changes,
        children=sum(len(worker.children) for worker in story.workers()),
        roles=_roles(story),
        attempts=[_row(story, *pair) for pair in zip(story.attempts, [None, *story.attempts], strict=False)],
        longest_waits=_waits(story),
        gathering=[
            Gathering(r.node.name, _since(story, r.start_ns), (r.end_ns - r.start_ns) / 1e9, r.completed)
            for r in story.gathering
        ],
        costs=costs(story),
        repeated=repeated(story),
        stuck=stuck(story),
        last_steps=_last_steps(story),
        last_words=[_word(one, dead.ended_ns or one.time_ns) for one in last if one.name not in ENDS] if dead else [],
        last_words_of=dead.rank if dead is not None and last else None,
        last_words_in=final,
        clocks=[Clock(host, o.seconds, o.error, o.rounds, o.applied) for host, o in sorted(story.offsets.items())],
        unparsed=sum(node.unparsed for node in story.nodes),
        ledgers=story.ledgers,
        lost=story.lost,
        unclosed=story.unclosed,
    )


def _since(story: Story, time_ns: int) -> float:
    return (time_ns - story.began_ns) / 1e9


def _departed(story: Story) -> list[Departure]:
    last = {node: attempt.number for attempt in story.attempts for node in attempt.nodes}
    found = [
        Departure(node.name, node.gone, node.signal, _since(story, _went(node)), last.get(node), node.reason)
        for node in story.nodes
        if node.gone
    ]
    return sorted(found, key=lambda departure: departure.at_s)


def _went(node: Node) -> int:
    if node.ended_ns is not None:
        return node.ended_ns
    return node.last_ns if node.died_ns is None else min(node.last_ns, node.died_ns)  # its workers may go on


def _roles(story: Story) -> list[Role]:
    ranks: dict[str, set[int]] = {}
    for worker in story.workers():
        if worker.process is not None and worker.process.context.role and worker.rank is not None:
            ranks.setdefault(worker.process.context.role, set()).add(worker.rank)
    return [Role(role, sorted(ranks[role])) for role in sorted(ranks)]


def _row(story: Story, attempt: Attempt, before: Attempt | None) -> AttemptRow:
    start, end = story.span(attempt)
    first_step_ns = attempt.first_step_ns
    since = story.span(before)[1] if before is not None else None
    if since is not None and since > (first_step_ns or 0):
        since = None  # two agents that lost sight of each other: neither waited for the other's end
    rendezvous = [r for r in attempt.rendezvous if r.completed]
    numbers = [min(w.process.numbers) for w in attempt.workers if w.process is not None and w.process.numbers]
    first = attempt.first_failure
    failed = [worker for worker in attempt.workers if worker.outcome == "failed"]
    return AttemptRow(
        attempt=attempt.number,
        round=attempt.round,
        start_s=(start - story.began_ns) / 1e9,
        duration_s=(end - start) / 1e9,
        rendezvous_s=(max(r.end_ns for r in rendezvous) - min(r.start_ns for r in rendezvous)) / 1e9
        if rendezvous
        else None,
        first_step_s=(first_step_ns - start) / 1e9 if first_step_ns is not None else None,
        restart_to_step_s=(first_step_ns - since) / 1e9 if first_step_ns is not None and since is not None else None,
        world_size=attempt.world_size,
        nodes=attempt.group_size,
        first_step=min(numbers, default=None),
        last_step=attempt.last_step,
        outcome=attempt.outcome,
        first_failure=_failure(story, attempt, first) if first is not None else None,
        suspects=[_failure(story, attempt, worker) for worker in attempt.suspects],
        departed=[node.name for node in attempt.gone],
        failed=sum(not worker.victim for worker in failed),
        consequences=sum(worker.consequence for worker in failed),
        victims=sum(worker.victim for worker in failed),
        done_before=_done_before(attempt),
        unsure=attempt.unsure,
    )


def _done_before(attempt: Attempt) -> list[int]:
    """Return the ranks that had ended well before any failed: their peers may have waited for them in vain."""
    failures = [attempt.first_failure] if attempt.first_failure is not None else attempt.suspects
    times = [time for one in failures if (time := one.raised_ns or one.ended_ns) is not None]
    return [
        worker.rank
        for worker in attempt.workers
        if worker.outcome == "succeeded"
        and worker.rank is not None
        and times
        and _done(worker) + (0 if worker.host == failures[0].host else round(LOOK * 1e9)) < min(times)
    ]


def _done(worker: Worker) -> float:
    """Return when it was over, in nanoseconds: as it said itself, or when its agent found it so, some time later."""
    return min(filter(None, (worker.done_ns, worker.died_ns)), default=_NEVER)


def _failure(story: Story, attempt: Attempt, worker: Worker) -> Failure:
    at = _since(story, worker.ended_ns) if worker.ended_ns is not None else None
    fault = fault_of(worker)
    return Failure(
        rank=worker.rank,
        node=worker.place,
        pid=worker.pid,
        signal=worker.signal,
        exit_code=worker.exit_code,
        at_s=at,
        noticed=worker.died_ns is None,
        attempt=attempt.number,
        raised_s=_since(story, worker.raised_ns) if worker.raised_ns is not None else None,
        recorded=worker.process is not None,
        **fault._asdict(),
    )


def _waits(story: Story) -> list[Wait]:
    """The longest waits that stand out: over a second, and twice as long as those of half of the nodes."""
    waits = [
        Wait(r.node.name, attempt.number, r.round, (r.end_ns - r.start_ns) / 1e9)
        for attempt in story.attempts
        for r in attempt.rendezvous
    ]
    usual = median(wait.seconds for wait in waits) if waits else 0
    return sorted((w for w in waits if w.seconds > max(1, 2 * usual)), key=lambda wait: -wait.seconds)[:3]


def _last_steps(story: Story) -> list[LastStep]:
    reached: dict[int, int | None] = {}
    for worker in story.workers():
        if worker.rank is None or worker.process is None:
            continue
        step = worker.process.last_step
        if step is None and any(worker.process.ends):  # its steps have no numbers
            reached.pop(worker.rank, None)
        else:
            reached[worker.rank] = step
    ranks: dict[int | None, list[int]] = {}
    for rank, step in reached.items():
        ranks.setdefault(step, []).append(rank)
    if set(ranks) <= {None}:
        return []
    return [
        LastStep(step, sorted(ranks[step])) for step in sorted(ranks, key=lambda step: -1 if step is None else step)
    ]


def _word(record: Record, death_ns: int) -> Word:
    value = record.fields[0] if record.kind == "metric" else record.fields[-1]
    if isinstance(value, dict):
        shown = ", ".join(f"{key} {item}" for key, item in value.items())
    else:
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return Word((death_ns - record.time_ns) / 1e9, str(record.name), shown)
