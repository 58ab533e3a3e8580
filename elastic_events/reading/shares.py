"""Jobs of one id, or of none: where one ends and the next begins, and which ledgers and losses are whose."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from elastic_events.bus.context import COLLECTOR, Context
from elastic_events.reading.images import program, ticks
from elastic_events.reading.said import DEATHS, Told
from elastic_events.reading.story import Process

__all__ = ("Closed", "Lost", "Shares", "anew", "at_once", "one_by_one")


class Closed(NamedTuple):
    """The counts of a sink that was closed."""

    context: Context  #: of who closed it
    time_ns: int  #: and when
    facts: dict[str, Any]
    sources: frozenset[str]  #: that hold them


class Lost(NamedTuple):
    """What rings lost before they were collected, as one process tells it."""

    context: Context
    totals: dict[tuple[str, str], int]  #: process and reason -> records


class Shares:
    """What is whose among jobs of one id, which are in the order of their time."""

    def __init__(self, jobs: list[list[Told]]) -> None:
        self._alone = len(jobs) == 1
        jobs = [] if self._alone else jobs
        self._jobs = {told.process.context.process: at for at, job in enumerate(jobs) for told in job}
        self._began = [min(told.process.first_ns for told in job) for job in jobs]
        self._oldest: list[dict[str, int]] = []  # host -> when the first process of a job started, in ticks
        for job in jobs:
            oldest: dict[str, int] = {}
            for told in job:
                context = told.process.context
                if context.role != COLLECTOR and (started := ticks(context)):
                    oldest[context.host] = min(started, oldest.get(context.host, started))
            self._oldest.append(oldest)

    def ledgers(self, at: int, closed: Iterable[Closed]) -> tuple[list[dict[str, Any]], set[str]]:
        """Return the ledgers of a job, and the hosts and sources that have them; `runs` in one says of how many it is."""
        found: list[dict[str, Any]] = []
        closers: set[str] = set()
        for one in closed:
            owners = range(1) if self._alone else self._owners(one.context, one.time_ns)
            if at in owners:
                found.append(one.facts if len(owners) == 1 else {**one.facts, "runs": len(owners)})
                closers |= {one.context.host, *one.sources}
        return found, closers

    def losses(self, at: int, lost: Iterable[Lost]) -> dict[str, int]:
        """Return what a job's rings lost, by reason: each loss once, whoever told it."""
        totals: dict[tuple[str, str], int] = {}
        for context, own in lost:
            teller = self._jobs.get(context.process, 0)
            for key, total in own.items():
                if self._alone or self._jobs.get(key[0], teller) == at:
                    totals[key] = max(totals.get(key, 0), total)
        found: Counter[str] = Counter()
        for (_, reason), total in totals.items():
            found[reason] += total
        return dict(found)

    def _owners(self, context: Context, time_ns: int) -> range:
        """Return the jobs that a ledger may be of: a process's own, a collector's those from its start until it closed."""
        own = self._jobs.get(context.process)
        if own is not None and context.role != COLLECTOR:
            return range(own, own + 1)
        last = first = max(0, bisect_right(self._began, time_ns) - 1)
        while first and ticks(context) < self._oldest[first].get(context.host, 2**63):
            first -= 1
        return range(first, last + 1)


class _Reign(NamedTuple):
    """The time in which an agent has a rank 0."""

    round: Any
    begin_ns: int
    end_ns: int

    def meets(self, other: "_Reign") -> bool:
        return self.round == other.round and self.begin_ns < other.end_ns and other.begin_ns < self.end_ns


def at_once(told: list[Told]) -> list[list[Told]]:
    """Part jobs under one name that ran at once on one host: no two agents of a job have a rank 0 at a time, in one round.

    Where an agent has no rank 0, or none names the pid of a rank, it may be of any of them: then all are told as one job.
    """
    agents = [one for one in told if "worker.started" in _names(one)]
    if len(agents) < 2 or len({one.process.context.host for one in agents}) > 1:
        return [told]
    jobs: list[list[_Reign]] = []
    owner: dict[Any, int] = {}  # pid -> place of its job
    for agent in sorted(agents, key=lambda one: one.process.first_ns):
        reigns = _reigns(agent)
        if not reigns:
            return [told]
        at = next((at for at, others in enumerate(jobs) if not _meet(reigns, others)), len(jobs))
        if at == len(jobs):
            jobs.append([])
        jobs[at] += reigns
        pids = [said.facts.get("pid") for said in agent.facts if said.name == "worker.started"]
        if any(owner.setdefault(pid, at) != at for pid in (agent.process.context.pid, *pids)):
            return [told]  # as in containers that have a host's name in common
    parts: list[list[Told]] = [[] for _ in jobs]
    for one in told:
        context = one.process.context
        if context.pid not in owner and (context.rank is not None or one.process.steps):
            return [told]
        parts[owner.get(context.pid, 0)].append(one)
    return parts


def _reigns(agent: Told) -> list[_Reign]:
    """Return when an agent had a rank 0."""
    reigns: list[_Reign] = []
    round_: Any = None
    for said in agent.facts:
        facts = said.facts
        if said.name == "attempt.started":
            round_ = facts.get("round")
        elif facts.get("rank") == 0 and said.name == "worker.started":
            reigns.append(_Reign(round_, said.time_ns, agent.process.last_ns))
        elif reigns and (facts.get("rank") == 0 or said.name == "attempt.ended"):
            last = reigns[-1]
            reigns[-1] = last._replace(end_ns=min(last.end_ns, said.time_ns))
    return reigns


def _meet(some: list[_Reign], others: list[_Reign]) -> bool:
    return any(one.meets(other) for one in some for other in others)


def anew(told: list[Told]) -> list[list[Told]]:
    """Part the jobs of one id. One that had failed goes on, from a queue; but where it had succeeded, another one begins.

    Of several hosts nobody knows: their clocks may be apart.
    """
    if len({one.process.context.host for one in told}) > 1:
        return [told]
    return _parted(told, ("job.succeeded",), lambda one, _job, over: over and "attempt.started" in _names(one))


def one_by_one(told: list[Told]) -> list[list[Told]]:
    """Part jobs that have no id of their own: one begins when all before it have ended and an agent of theirs said so.

    So does a program that has neither agent nor rank, as those before it had none: a script that ran twice is two runs.
    """
    ends = ("job.succeeded", "job.failed")
    return _parted(told, ends, lambda one, job, over: over or _begins(one.process, job))


def _parted(
    told: list[Told], ends: tuple[str, ...], begins: Callable[[Told, list[Told], bool], bool]
) -> list[list[Told]]:
    """Begin a job with each that comes when all before it have ended, if it `begins` one behind a job that is over, or not."""
    jobs: list[list[Told]] = [[]]
    end, over = 0, False
    for one in sorted(told, key=lambda one: one.process.first_ns):
        if jobs[-1] and one.process.first_ns > end and begins(one, jobs[-1], over):
            jobs.append([])
            over = False
        jobs[-1].append(one)
        end = max(end, one.process.last_ns)
        over = over or not _names(one).isdisjoint(ends)
    return jobs


def _names(one: Told) -> set[str]:
    return {said.name for said in one.facts}


def _begins(process: Process, job: list[Told]) -> bool:
    """Whether a process that marks steps after all of `job` has ended is another run: nobody has an agent, nor a rank."""
    before = [one.process for one in job if one.process.steps]
    told = set[str]().union(*map(_names, job)) <= DEATHS  # a collector that finds one killed is no agent
    alone = told and all(one.context.rank is None for one in (process, *before))
    return bool(process.steps and before) and alone and program(process) not in map(program, before)
