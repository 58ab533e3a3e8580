"""One job, from what its agents said and what its processes marked."""

from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import Any

from elastic_events.reading.clocks import Joined, offsets
from elastic_events.reading.speaker import Said, Speaker, integer
from elastic_events.reading.story import Attempt, Node, Process, Rendezvous, Story, Worker

__all__ = ("Told", "tell")

#: What an attempt ended as where its agents differ: the first of these that any of them says.
_OUTCOMES = ("failed", "stopped", "membership", "left", "succeeded", "unknown")


#: One process, and what it said and marked.
Told = tuple[Speaker, Process]


def tell(run_id: str, told: list[Told], ledgers: list[dict[str, Any]]) -> Story:
    """Return the story of one run. Never raises for what was recorded: values of a wrong type count as not given."""
    said = {one: one[0].said() for one in told}
    found = offsets(_joins(said))
    for one, facts in said.items():
        clock = found.get(one[0].context.host)
        if clock is not None and clock.applied:
            said[one] = _shifted(one[1], facts, round(clock.seconds * 1e9))
    job = _Job(Story(run_id, 0, 0, ledgers=ledgers, offsets=found))
    job.hear(said)
    job.assign([process for _, process in told])
    return job.finish()


def _joins(said: Mapping[Told, list[Said]]) -> Iterable[Joined]:
    for (speaker, _), facts in said.items():
        for time_ns, name, metadata in facts:
            number = integer(metadata.get("round")) if name == "rendezvous.completed" else None
            if number is not None:
                yield Joined(speaker.context.host, number, time_ns)


def _shifted(process: Process, facts: list[Said], ahead: int) -> list[Said]:
    """Take a host's clock error off everything that one of its processes recorded."""
    process.first_ns -= ahead
    process.last_ns -= ahead
    for times in (process.starts, process.ends):
        times[:] = type(times)("q", (time - ahead if time else 0 for time in times))
    for span in process.spans:
        span.start_ns -= ahead
        span.end_ns -= ahead if span.end_ns else 0
    return [fact._replace(time_ns=fact.time_ns - ahead) for fact in facts]


class _Agent:
    """One agent while its facts are heard."""

    def __init__(self, node: Node, first_ns: int) -> None:
        self.node = node
        self.first_ns = first_ns
        self.attempts: dict[Any, Attempt] = {}  # its own number -> the job's attempt
        self.workers: dict[tuple[Any, Any, Any], Worker] = {}  # attempt and local rank, or rank
        self.rendezvous: list[Rendezvous] = []  # of the attempt to come


class _Job:
    """Hears facts in the order of time; each fact has the method of its name."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.began: list[int] = []
        self.ends: list[int] = []
        self._attempts: dict[tuple[str, int | None], Attempt] = {}
        self._died_alone: dict[tuple[str, int | None], Said] = {}  # workers that no agent spoke of
        self._by_pid: dict[tuple[str, int | None], list[Worker]] = {}

    def hear(self, said: Mapping[Told, list[Said]]) -> None:
        """Hear all facts of all agents."""
        heard: list[tuple[int, _Agent | None, Said]] = []
        agents = []
        for (speaker, process), facts in said.items():
            agent = None
            if any(name != "worker.died" for _, name, _ in facts):
                agent = _Agent(speaker.node, process.first_ns)
                agents.append(agent)
            heard += ((fact.time_ns, agent, fact) for fact in facts)
        self.story.nodes = [agent.node for agent in agents]
        _name(self.story.nodes)
        heard.sort(key=itemgetter(0))
        for time_ns, agent, (_, name, about) in heard:
            if name == "worker.died":
                self._died(time_ns, about)
            elif agent is not None:
                try:
                    _HEARD[name](self, agent, time_ns, about)
                except TypeError:  # a list for a number: not given
                    continue

    def job_started(self, _agent: _Agent, time_ns: int, _facts: Mapping[str, Any]) -> None:
        self.began.append(time_ns)

    def job_ended(self, agent: _Agent, time_ns: int, facts: Mapping[str, Any], outcome: str) -> None:
        self.ends.append(time_ns)
        agent.node.outcome, agent.node.reason = outcome, _text(facts.get("reason")) or ""

    def rendezvous(self, agent: _Agent, time_ns: int, facts: Mapping[str, Any], completed: bool) -> None:
        lasted = facts.get("duration_ms")
        nanoseconds = round(lasted * 1e6) if isinstance(lasted, int | float) and 0 <= lasted < 1e12 else 0
        number, rank, nodes = (integer(facts.get(key)) for key in ("round", "rank", "world_size"))
        agent.rendezvous.append(Rendezvous(agent.node, time_ns - nanoseconds, time_ns, number, rank, nodes, completed))

    def unparsed(self, agent: _Agent, _time_ns: int, facts: Mapping[str, Any]) -> None:
        agent.node.unparsed = max(agent.node.unparsed, integer(facts.get("count")) or 0)

    def attempt_started(self, agent: _Agent, time_ns: int, facts: Mapping[str, Any]) -> None:
        number, own = integer(facts.get("round")), integer(facts.get("attempt"))
        key = ("attempt", own) if number is None else ("round", number)
        attempt = self._attempts.get(key)
        over = attempt is not None and attempt.ended_ns is not None and agent.first_ns > attempt.ended_ns
        if attempt is None or over or agent.node in attempt.nodes:  # the same number again: a job that began anew
            attempt = self._attempts[key] = Attempt(len(self.story.attempts), number, time_ns)
            self.story.attempts.append(attempt)
        attempt.world_size = integer(facts.get("world_size")) or attempt.world_size
        attempt.nodes.append(agent.node)
        attempt.rendezvous += agent.rendezvous
        agent.rendezvous = []
        agent.attempts[own] = attempt

    def attempt_ended(self, agent: _Agent, time_ns: int, facts: Mapping[str, Any]) -> None:
        attempt = agent.attempts.get(integer(facts.get("attempt")))
        if attempt is None:
            return
        if agent.rendezvous:  # torch's own stream tells the end only with the next start
            time_ns = min(time_ns, agent.rendezvous[0].start_ns)
        attempt.ended_ns = max(time_ns, attempt.ended_ns or time_ns)
        outcome = _text(facts.get("outcome")) or "unknown"
        attempt.outcome = min(attempt.outcome, outcome if outcome in _OUTCOMES else "unknown", key=_OUTCOMES.index)

    def _worker(self, agent: _Agent, facts: Mapping[str, Any]) -> Worker | None:
        """Return the worker that `facts` speak of, a new one where it was not spoken of before."""
        own, rank, local = facts.get("attempt"), facts.get("rank"), facts.get("local_rank")
        attempt = agent.attempts.get(own)
        if attempt is None:
            return None
        key = (own, None, rank) if local is None else (own, local, None)
        worker = agent.workers.get(key)
        if worker is None:
            host = agent.node.host
            pid = integer(facts.get("pid"))
            worker = agent.workers[key] = Worker(integer(rank), agent.node, integer(local), pid, host)
            attempt.workers.append(worker)
            self._by_pid.setdefault((host, worker.pid), []).append(worker)
        return worker

    def worker_started(self, agent: _Agent, time_ns: int, facts: Mapping[str, Any]) -> None:
        worker = self._worker(agent, facts)
        if worker is not None:
            worker.started_ns = time_ns

    def worker_succeeded(self, agent: _Agent, time_ns: int, facts: Mapping[str, Any]) -> None:
        worker = self._worker(agent, facts)
        if worker is not None:
            worker.ended_ns, worker.outcome = time_ns, "succeeded"

    def worker_failed(self, agent: _Agent, time_ns: int, facts: Mapping[str, Any]) -> None:
        worker = self._worker(agent, facts)
        if worker is not None:
            worker.ended_ns, worker.outcome = time_ns, "failed"
            worker.exit_code, worker.signal = integer(facts.get("exit_code")), _text(facts.get("signal"))
            worker.message = _text(facts.get("message"))
            worker.first, worker.victim = facts.get("first") is True, facts.get("victim") is True

    def _died(self, time_ns: int, facts: Mapping[str, Any]) -> None:
        """A collector's word, for a worker whose agent said nothing of its end. Most of those the agent itself ended."""
        key = (_text(facts.get("host")) or "", integer(facts.get("pid")))
        known = self._by_pid.get(key)
        if known is None:
            self._died_alone[key] = Said(time_ns, "worker.died", facts)
        elif known[-1].outcome == "unknown" and (facts.get("signal") or facts.get("exit_code")):
            _die(known[-1], time_ns, facts)

    # --- what the workers recorded themselves ---

    def assign(self, processes: list[Process]) -> None:
        """Give each process to its worker: that of its host and pid, else that of its restart and rank."""
        self.story.processes = processes
        agents = {(node.host, node.pid) for node in self.story.nodes}
        ranked: dict[tuple[int, int | None], Worker] = {}
        for attempt in self.story.attempts:
            ranked.update(((attempt.number, worker.rank), worker) for worker in attempt.workers)
        spare: dict[int, Attempt] = {}
        hosts = {node.host: node for node in self.story.nodes}
        for process in sorted(processes, key=lambda process: process.first_ns):
            context = process.context
            if (context.host, context.pid) in agents or (context.rank is None and not process.steps):
                continue
            worker = self._started_by(process) or ranked.get((context.restart or 0, context.rank))
            if worker is None or worker.process is not None:
                attempt = self._attempt_of(context.restart or 0, spare)
                worker = Worker(
                    context.rank,
                    hosts.get(context.host),
                    context.local_rank,
                    context.pid,
                    context.host,
                    process.first_ns,
                )
                attempt.workers.append(worker)
                died = self._died_alone.get((context.host, context.pid))
                if died is not None:
                    _die(worker, died.time_ns, died.facts)
                attempt.world_size = attempt.world_size or context.world_size
            worker.process = process

    def _started_by(self, process: Process) -> Worker | None:
        """Return the worker with the process's pid; of several, as pids are used again, the last that had begun."""
        known = [
            worker
            for worker in self._by_pid.get((process.context.host, process.context.pid), ())
            if worker.process is None and worker.rank in (process.context.rank, None)
        ]
        begun = [worker for worker in known if worker.started_ns is None or worker.started_ns <= process.last_ns]
        return begun[-1] if begun else known[-1] if known else None

    def _attempt_of(self, restart: int, spare: dict[int, Attempt]) -> Attempt:
        """Return the attempt of a process that no agent spoke of."""
        if self.story.attempts and not spare:
            return self.story.attempts[min(restart, len(self.story.attempts) - 1)]
        attempt = spare.get(restart)
        if attempt is None:
            attempt = spare[restart] = Attempt(len(spare))
            self.story.attempts.append(attempt)
        return attempt

    def finish(self) -> Story:
        """Return the story, with what follows from all of it."""
        story = self.story
        gathered = [rendezvous.start_ns for attempt in story.attempts[:1] for rendezvous in attempt.rendezvous]
        began = self.began or [process.first_ns for process in story.processes]
        story.began_ns = min([*began, *gathered], default=0)
        # Where some agents left and others did not say that they ended, the job went on with these.
        on = {node.host for node in story.nodes if node.outcome == "unknown"}
        going = [p.last_ns for p in story.processes if not self.ends or p.context.host in on]
        story.ended_ns = max([*self.ends, *going], default=0)
        story.ended_ns = max(story.began_ns, story.ended_ns)
        for attempt in story.attempts:
            _settle(attempt)
        story.attempts.sort(key=lambda attempt: attempt.started_ns or 0)
        for number, attempt in enumerate(story.attempts):
            attempt.number = number
        story.restarts = sum(attempt.outcome == "failed" for attempt in story.attempts[:-1])
        story.membership_changes = sum(attempt.outcome == "membership" for attempt in story.attempts[:-1])
        outcomes = {node.outcome for node in story.nodes}
        story.outcome = next((outcome for outcome in ("failed", "succeeded") if outcome in outcomes), "unknown")
        story.reason = next((node.reason for node in story.nodes if node.outcome == "failed"), "")
        return story


def _die(worker: Worker, time_ns: int, facts: Mapping[str, Any]) -> None:
    worker.outcome, worker.ended_ns = "failed", time_ns
    worker.signal, worker.exit_code = _text(facts.get("signal")), integer(facts.get("exit_code"))


def _settle(attempt: Attempt) -> None:
    """Order an attempt's workers, and take its times from its processes where no agent gave any."""
    attempt.workers.sort(key=lambda worker: (worker.rank is None, worker.rank or 0))
    processes = [worker.process for worker in attempt.workers if worker.process is not None]
    if attempt.started_ns is None:
        attempt.started_ns = min((process.first_ns for process in processes), default=None)
        attempt.ended_ns = max((process.last_ns for process in processes), default=None)
    for worker in attempt.workers:
        if worker.ended_ns is None:
            worker.ended_ns = attempt.ended_ns


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
    "job.succeeded": lambda job, *about: job.job_ended(*about, "succeeded"),
    "job.failed": lambda job, *about: job.job_ended(*about, "failed"),
    "agent.left": lambda job, *about: job.job_ended(*about, "left"),
    "rendezvous.completed": lambda job, *about: job.rendezvous(*about, True),
    "rendezvous.failed": lambda job, *about: job.rendezvous(*about, False),
    "rendezvous.unparsed": _Job.unparsed,
    "attempt.started": _Job.attempt_started,
    "attempt.ended": _Job.attempt_ended,
    "worker.started": _Job.worker_started,
    "worker.succeeded": _Job.worker_succeeded,
    "worker.failed": _Job.worker_failed,
}
