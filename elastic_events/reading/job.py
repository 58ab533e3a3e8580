"""One job, from what its agents said and what its processes marked."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Any, NamedTuple

from elastic_events.reading.causes import OUTCOMES, conclude
from elastic_events.reading.clocks import LOOK, STARTS, offsets
from elastic_events.reading.joined import joins
from elastic_events.reading.observed import number_observed
from elastic_events.reading.ranks import Ranks, signal_name
from elastic_events.reading.redone import doubt_others
from elastic_events.reading.said import DEATHS, Said, Told, integer, later
from elastic_events.reading.stayed import join_those_that_stayed
from elastic_events.reading.story import Attempt, Node, Process, Rendezvous, Story, Worker

__all__ = ("assemble",)

#: Nanoseconds between the nodes' starts of one attempt, at most: torch's nodes look once a second.
_TOGETHER = round(2 * LOOK * 1e9)


def assemble(run_id: str, told: list[Told]) -> Story:
    """Return the story of one run. Never raises for what was recorded: values of a wrong type count as not given."""
    told = sorted(told, key=lambda one: (one.process.first_ns, one.process.context.host, one.process.context.process))
    reference, found = offsets(joins(told))
    for at, one in enumerate(told):
        clock = found.get(one.process.context.host)
        if clock is not None and clock.applied:
            told[at] = one._replace(facts=_shifted(one.process, one.facts, round(clock.seconds * 1e9)))
    job = _Job(Story(run_id, 0, 0, reference=reference, offsets=found))
    job.hear(told)
    job.ranks.assign(job.story, [one.process for one in told])
    return job.finish()


def _shifted(process: Process, facts: list[Said], ahead: int) -> list[Said]:
    """Take a host's clock error off everything that one of its processes recorded."""
    process.first_ns -= ahead
    process.last_ns -= ahead
    for times in (process.starts, process.ends):
        times[:] = type(times)("q", (time - ahead if time else 0 for time in times))
    for span in process.spans:
        span.start_ns -= ahead
        span.end_ns -= ahead if span.end_ns else 0
    if process.errors:
        process.errors = {entry: time_ns - ahead for entry, time_ns in process.errors.items()}
    process.said = [(time_ns - ahead, name, about) for time_ns, name, about in process.said]
    return [later(fact, -ahead) for fact in facts]


class _Agent:
    """One agent while its facts are heard."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.attempts: dict[Any, Attempt] = {}  # its own number -> the job's attempt
        self.latest: Attempt | None = None
        self.workers: dict[Attempt, _Named] = {}
        self.rendezvous: list[Rendezvous] = []  # of the attempt to come
        self.began = False  # it said so: else it may be older than its first record

    @property
    def gathered(self) -> int | None:
        """The round of the last rendezvous that it completed and of whose attempt it has said nothing."""
        rounds = [rendezvous.round for rendezvous in self.rendezvous if rendezvous.completed]
        return rounds[-1] if rounds else None


class _Heard(Said, frozen=True, gc=False):
    """One fact, and who told it: None where it was no agent."""

    agent: _Agent | None


class _Named(NamedTuple):
    """The workers of one agent in one attempt, by what they are known by."""

    ranks: dict[int, Worker]
    pids: dict[int, Worker]
    locals: dict[int, Worker]

    def find(self, rank: int | None, pid: int | None, local: int | None) -> Iterator[Worker]:
        """Give those with the rank, the pid and the local rank, where there are such."""
        for workers, value in zip(self, (rank, pid, local), strict=True):
            worker = workers.get(value) if value is not None else None
            if worker is not None:
                yield worker

    def add(self, worker: Worker, rank: int | None, pid: int | None, local: int | None) -> None:
        """Add a worker, or what it is known by now as well."""
        for workers, value in zip(self, (rank, pid, local), strict=True):
            if value is not None:
                workers[value] = worker


class _Job:
    """Hears facts in the order of time; each fact has the method of its name."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.began: list[int] = []
        self.ranks = Ranks()
        self._alive: dict[Attempt, int] = {}  # the last sign of any of its agents
        self._own: dict[Attempt, int | None] = {}  # the number that the first of them gave it

    def hear(self, told: Iterable[Told]) -> None:
        """Hear all facts of all agents."""
        heard: list[_Heard] = []
        agents = []
        for process, facts, node in told:
            agent = None
            if any(fact.name not in DEATHS for fact in facts):
                host = process.context.host
                agent = _Agent(node or Node(host, host, process.context.pid))
                agent.node.first_ns, agent.node.last_ns = process.first_ns, process.last_ns
                agents.append(agent)
            heard += [_Heard(fact.time_ns, fact.name, fact.told, agent) for fact in facts]
            facts.clear()  # of hundreds of thousands of workers: each goes as soon as it was heard
        self.story.nodes = [agent.node for agent in agents]
        for time_ns, agent, name, about in _by_time(heard):
            if name in DEATHS:
                self.ranks.died(time_ns, about)
            elif agent is not None:
                try:
                    _HEARD[name](self, agent, time_ns, about)
                except TypeError:  # a list for a number: not given
                    continue
        self.story.gathering = [rendezvous for agent in agents for rendezvous in agent.rendezvous]

    def job_started(self, agent: _Agent, time_ns: int, _facts: Mapping[str, Any]) -> None:
        agent.began = True
        self.began.append(time_ns)

    def job_ended(self, agent: _Agent, time_ns: int, facts: Mapping[str, Any], outcome: str) -> None:
        node = agent.node
        node.ended_ns, node.outcome = time_ns, outcome
        node.restarts = integer(facts.get("restarts")) or 0
        node.reason, node.signal = _text(facts.get("reason")) or "", signal_name(facts.get("signal"))

    def rendezvous(self, agent: _Agent, time_ns: int, facts: Mapping[str, Any], completed: bool) -> None:
        lasted = facts.get("duration_ms")
        nanoseconds = round(lasted * 1e6) if isinstance(lasted, int | float) and 0 <= lasted < 1e12 else 0
        number, rank, nodes = (integer(facts.get(key)) for key in ("round", "rank", "world_size"))
        agent.rendezvous.append(Rendezvous(agent.node, time_ns - nanoseconds, time_ns, number, rank, nodes, completed))

    def unparsed(self, agent: _Agent, _time_ns: int, facts: Mapping[str, Any]) -> None:
        agent.node.unparsed = max(agent.node.unparsed, integer(facts.get("count")) or 0)

    # --- attempts ---

    def attempt_started(self, agent: _Agent, time_ns: int, facts: Mapping[str, Any]) -> None:
        number, own, size = (integer(facts.get(key)) for key in ("round", "attempt", "world_size"))
        number = agent.gathered if number is None else number
        attempt = self._static(agent, time_ns, own, size) if number is None else None
        attempt = attempt or self._shared(agent, time_ns, number, size)
        if attempt is None:
            attempt = Attempt(len(self.story.attempts), number, time_ns)
            self.story.attempts.append(attempt)
        attempt.round = number if attempt.round is None else attempt.round
        attempt.started_ns = time_ns if attempt.started_ns is None else attempt.started_ns
        attempt.world_size = size or attempt.world_size
        nodes = [integer(facts.get("group_world_size")), *(r.world_size for r in agent.rendezvous if r.completed)]
        attempt.group_size = next((size for size in nodes if size), attempt.group_size)
        self._join(agent, attempt, own)

    def _join(self, agent: _Agent, attempt: Attempt, own: int | None) -> None:
        attempt.nodes.append(agent.node)
        self._alive[attempt] = max(self._alive.get(attempt, 0), agent.node.last_ns)
        self._own.setdefault(attempt, own)
        attempt.rendezvous += agent.rendezvous
        agent.rendezvous = []
        agent.attempts[own] = agent.latest = attempt

    def _static(self, agent: _Agent, time_ns: int, own: int | None, size: int | None) -> Attempt | None:
        """Return the attempt that lacks an agent, by its number: without a rendezvous each restarts when it sees a failure."""
        for attempt in reversed(self.story.attempts):
            over = self._alive[attempt] if attempt.ended_ns is None else attempt.ended_ns
            if attempt is agent.latest or agent.node.first_ns > over:
                return None
            lacks = attempt.round is None and len(attempt.nodes) < (attempt.group_size or 0)
            # In its first one a node waits for the others: one that comes later is back for another attempt.
            near = own or time_ns - (attempt.started_ns or 0) <= STARTS * 1e9
            if lacks and near and own is not None and self._own[attempt] == own and attempt.world_size == size:
                return attempt
        return None

    def _shared(
        self, agent: _Agent, time_ns: int | None, number: int | None, size: int | None, own: int | None = None
    ) -> Attempt | None:
        """Return the attempt of other agents that this one is part of: that of its round, else the one that starts now.

        Without `time_ns` it is not known when this agent's part of it started; `own` is the number that it gives it.
        """
        began = min([agent.node.first_ns, *(rendezvous.start_ns for rendezvous in agent.rendezvous)])
        for attempt in reversed(self.story.attempts):
            over = self._alive[attempt] + _TOGETHER if attempt.ended_ns is None else attempt.ended_ns
            late = began > over and (agent.began or own != attempt.number)
            if attempt is agent.latest or late:
                return None  # the same number again: a job that began anew
            if number is not None and attempt.round is not None:
                if number == attempt.round:
                    return attempt
                continue
            if size is not None and attempt.world_size not in (size, None):
                continue
            # Of one whose start was lost nothing but the time says whether this is a part of it.
            running = len(attempt.ends) < len(attempt.nodes) and attempt.world_size is not None
            if running or time_ns is None or time_ns - (attempt.started_ns or 0) <= _TOGETHER:
                return attempt
            return None
        return None

    def _attempt(self, agent: _Agent, facts: Mapping[str, Any]) -> Attempt:
        """Return the attempt that an agent speaks of; where the record of its start was lost, the one of that time."""
        own = integer(facts.get("attempt"))
        known = agent.latest if own is None else agent.attempts.get(own)
        if known is None and None in agent.attempts:  # one of those that were told without their number
            known = agent.latest
        if known is not None:
            return known
        attempt = self._shared(agent, None, agent.gathered, None, own)
        if attempt is None:
            attempt = Attempt(len(self.story.attempts), agent.gathered)
            self.story.attempts.append(attempt)
        self._join(agent, attempt, own)
        return attempt

    def attempt_ended(self, agent: _Agent, time_ns: int, facts: Mapping[str, Any]) -> None:
        attempt = self._attempt(agent, facts)
        if agent.rendezvous:  # torch's own stream tells the end only with the next start
            time_ns = min(time_ns, agent.rendezvous[0].start_ns)
        attempt.ended_ns = max(time_ns, attempt.ended_ns or time_ns)
        outcome = _text(facts.get("outcome")) or "unknown"
        attempt.ends[agent.node] = time_ns, outcome if outcome in OUTCOMES else "unknown"

    # --- workers ---

    def _worker(self, agent: _Agent, facts: Mapping[str, Any]) -> Worker:
        """Return the worker that `facts` speak of, a new one where it was not spoken of before."""
        attempt = self._attempt(agent, facts)
        rank, pid, local = integer(facts.get("rank")), integer(facts.get("pid")), integer(facts.get("local_rank"))
        named = agent.workers.get(attempt)
        if named is None:
            named = agent.workers[attempt] = _Named({}, {}, {})
        worker = named.ranks.get(rank) if rank is not None else None
        if worker is not None and pid in (worker.pid, None):
            return worker
        # A rank is one worker's alone; of an agent for several hosts two may have a pid or a local rank in common.
        known = named.find(rank, pid, local)
        worker = next((one for one in known if rank is None or one.rank in (rank, None)), None)
        if worker is None:
            worker = Worker(rank, agent.node, local, pid, agent.node.host)
            attempt.workers.append(worker)
        worker.rank = rank if worker.rank is None else worker.rank
        worker.local_rank = local if worker.local_rank is None else worker.local_rank
        if pid is not None:
            worker.pid = pid
            self.ranks.told(worker)
        named.add(worker, rank, pid, local)
        return worker

    def worker_started(self, agent: _Agent, time_ns: int, facts: Mapping[str, Any]) -> None:
        attempt = self._attempt(agent, facts)
        self._worker(agent, facts).started_ns = time_ns
        attempt.started_ns = time_ns if attempt.started_ns is None else attempt.started_ns

    def worker_succeeded(self, agent: _Agent, time_ns: int, facts: Mapping[str, Any]) -> None:
        worker = self._worker(agent, facts)
        _looked(worker, time_ns, facts)
        worker.ended_ns, worker.outcome = time_ns, "succeeded"

    def worker_failed(self, agent: _Agent, time_ns: int, facts: Mapping[str, Any]) -> None:
        worker = self._worker(agent, facts)
        _looked(worker, time_ns, facts)
        worker.ended_ns, worker.outcome = time_ns, "failed"
        worker.exit_code, worker.signal = integer(facts.get("exit_code")), signal_name(facts.get("signal"))
        worker.message = _text(facts.get("message"))
        if not _LEFT.isdisjoint(facts):
            worker.left = {name: value for name, value in facts.items() if name in _LEFT}
        worker.first, worker.victim = facts.get("first") is True, facts.get("victim") is True

    def worker_stacks(self, agent: _Agent, time_ns: int, facts: Mapping[str, Any]) -> None:
        worker = self._worker(agent, facts)
        worker.asked_ns, worker.stack = time_ns, facts

    def finish(self) -> Story:
        """Return the story, with what follows from all of it."""
        story = self.story
        story.nodes.sort(key=lambda node: (node.first_ns, node.host, node.pid))
        join_those_that_stayed(story.attempts)
        for attempt in story.attempts:
            _settle(attempt)
        story.attempts.sort(key=lambda attempt: attempt.started_ns or 0)
        for number, attempt in enumerate(story.attempts):
            attempt.number = number
        number_observed(story)
        doubt_others(story)
        _name(story.nodes)
        conclude(story, self.ranks)
        gathered = [rendezvous.start_ns for attempt in story.attempts[:1] for rendezvous in attempt.rendezvous]
        began = self.began or [process.first_ns for process in story.processes]
        story.began_ns = min([*began, *gathered], default=0)
        ends = [node.ended_ns for node in story.nodes if node.ended_ns is not None]
        if not ends or any(node.ended_ns is None for node in story.remained):
            ends += (process.last_ns for process in story.processes)
        story.ended_ns = max(story.began_ns, max(ends, default=0))
        return story


def _looked(worker: Worker, time_ns: int, facts: Mapping[str, Any]) -> None:
    """Note when somebody saw a worker dead first, and alive last."""
    died = integer(facts.get("died_ns"))
    worker.died_ns = died if died is not None and 0 < died <= time_ns else worker.died_ns
    alive = integer(facts.get("alive_ns"))
    worker.alive_ns = alive if alive is not None and 0 < alive <= (worker.died_ns or 0) else worker.alive_ns


def _settle(attempt: Attempt) -> None:
    """Order an attempt's workers, and take its times from its processes where no agent gave any."""
    attempt.workers.sort(key=lambda worker: (worker.rank is None, worker.rank or 0))
    processes = [worker.process for worker in attempt.workers if worker.process is not None]
    attempt.world_size = attempt.world_size or next((p.context.world_size for p in processes), None)
    if attempt.world_size:  # torch's own stream tells that of the role
        attempt.world_size = max(attempt.world_size, *(w.rank + 1 for w in attempt.workers if w.rank is not None), 0)
    if attempt.started_ns is None:
        attempt.started_ns = min((process.first_ns for process in processes), default=None)
        if attempt.ended_ns is None:
            attempt.ended_ns = max((process.last_ns for process in processes), default=None)


def _name(nodes: list[Node]) -> None:
    """Name each node by its host, with the agent's pid where a host has several."""
    hosts = [node.host for node in nodes]
    several = {host for host in hosts if hosts.count(host) > 1} if len(set(hosts)) < len(hosts) else set()
    for node in nodes:
        if node.host in several:
            node.name = f"{node.host}:{node.pid}"


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


_HEARD: dict[str, Callable[[_Job, _Agent, int, Mapping[str, Any]], None]] = {
    "job.started": _Job.job_started,
    "rendezvous.completed": lambda job, *about: job.rendezvous(*about, True),
    "rendezvous.failed": lambda job, *about: job.rendezvous(*about, False),
    "rendezvous.unparsed": _Job.unparsed,
    "attempt.started": _Job.attempt_started,
    "worker.started": _Job.worker_started,
    "worker.stacks": _Job.worker_stacks,
    "worker.succeeded": _Job.worker_succeeded,
    "worker.failed": _Job.worker_failed,
    "attempt.ended": _Job.attempt_ended,
    "job.succeeded": lambda job, *about: job.job_ended(*about, "succeeded"),
    "job.failed": lambda job, *about: job.job_ended(*about, "failed"),
    "agent.left": lambda job, *about: job.job_ended(*about, "left"),
}

#: What a dead worker left in its folder, among the facts of its failure.
_LEFT = frozenset({"file", "line", "function", "traceback", "stderr"})

_ORDER = {name: place for place, name in enumerate(_HEARD)}
_LAST = _ORDER["job.succeeded"]


def _by_time(heard: list[_Heard]) -> Iterator[tuple[int, _Agent | None, str, Mapping[str, Any]]]:
    """Give facts by time, taking them out of the list; those of the same time as they follow from each other."""
    heard.sort(key=attrgetter("time_ns"))
    heard.reverse()
    while heard:
        time_ns = heard[-1].time_ns
        together = []
        while heard and heard[-1].time_ns == time_ns:
            said = heard.pop()
            together.append((said.agent, said.name, said.facts))
        if len(together) > 1:
            together.sort(key=_place)
        for one in together:
            yield time_ns, *one


def _place(fact: tuple[_Agent | None, str, Mapping[str, Any]]) -> tuple[int, int]:
    """Sort facts of the same time, in whatever order they were read."""
    _, name, facts = fact
    place = _ORDER.get(name, 0)
    attempt = integer(facts.get("attempt"))
    return (-1 if attempt is None else attempt) if place < _LAST else 2**63, place
