"""Stories of jobs with their planted truth: what happened, and what became of the records of it.

A job is played through second by second, its truth noted beside it; then its records are harmed as real ones are: fields
and records missing, records twice, in another order, cut off at a node's death, on clocks that are a minute apart.
"""

from dataclasses import dataclass, field
from typing import Any

import msgspec
from hypothesis import strategies as st

from elastic_events.bus.context import Context
from elastic_events.bus.record import Record
from tests.reading.runs import START, Run
from tests.records import changed

__all__ = ("Job", "Lived", "by_clock", "jobs")

#: Fields without which a reader has to find its way: every one but those that say that there is more than was read.
_FIELDS = ("round", "local_rank", "first", "died_ns", "rank", "attempt", "reason", "message", "duration_ms", "pid")


@dataclass
class Lived:
    """What is true of one attempt."""

    world: int
    pids: set[int]
    outcome: str
    first: int | None = None  #: pid of the first worker that failed by itself; None: none did
    died: float | None = None  #: when, in seconds of the true time
    gone: set[str] = field(default_factory=set)  #: hosts that left or vanished


@dataclass
class Job:
    """A job, what is true of it, and what its records are."""

    outcome: str
    attempts: list[Lived]
    records: list[Record]
    harm: str  #: what the records have suffered
    skewed: bool  #: clocks are apart
    set: bool  #: a clock was set in the middle


class _Play:
    """Plays a job, and records it as its agents, workers and collectors do."""

    def __init__(self, draw: Any, nodes: int, each: int) -> None:
        self.draw = draw
        self.run = Run()
        self.each = each
        self.hosts = [f"n{number}" for number in range(nodes)]
        self.agents = {host: self.run.agent(host, 10) for host in self.hosts}
        self.own = dict.fromkeys(self.hosts, 0)  # each agent's own number of its attempts
        self.now = 0.0
        self.pid = 100
        self.lived: list[Lived] = []
        self.slow = False  #: somebody took long to end: only its own words tell that it failed first
        for host in self.hosts:
            self.run.tell(self.some(0, 500), self.agents[host], "job.started")

    def join(self) -> None:
        """Let another node come."""
        host = f"n{len(self.agents)}"
        self.hosts.append(host)
        self.agents[host] = self.run.agent(host, 10)
        self.own[host] = 0
        self.run.tell(self.some(0, 500), self.agents[host], "job.started")

    def some(self, low: int, high: int) -> float:
        """Return a time from now on, between so many milliseconds."""
        return float(self.now + self.draw(st.integers(low, high)) / 1000)

    def attempt(self, end: str) -> None:
        """Let an attempt begin, do some steps, and end."""
        number = len(self.lived)
        if number and self.draw(st.integers(0, 3)) == 0:
            self.join()  # in the same restart as somebody may have gone
        hosts = self.draw(st.permutations(self.hosts))  # a rank may be on another node than before
        world = len(hosts) * self.each
        ready = self.some(1000, 3000)
        workers: dict[str, list[Context]] = {}
        for place, host in enumerate(hosts):
            agent, own = self.agents[host], self.own[host]
            at = ready + self.draw(st.integers(0, 500)) / 1000
            about = {"round": number, "world_size": len(hosts), "rank": place, "duration_ms": 1000.0}
            self.run.tell(at, agent, "rendezvous.completed", **about)
            sizes = {"world_size": world, "group_world_size": len(hosts)}
            self.run.tell(at + 0.01, agent, "attempt.started", attempt=own, round=number, **sizes)
            workers[host] = []
            for local in range(self.each):
                self.pid += 1
                rank = place * self.each + local
                who = replace_context(self.run.worker(rank, number, host, self.pid), local, world)
                workers[host].append(who)
                self.run.tell(at + 0.02, agent, "worker.started", **_worker(who, own))
        self.lived.append(Lived(world, {w.pid for own in workers.values() for w in own}, end))
        self.now = ready + 2
        count = self.draw(st.integers(0, 3))
        for who in (who for own in workers.values() for who in own):
            self.run.steps(who, range(count), self.now, 1.0)
            self.run.tell(self.now + count, who, "step.started", step=count)
        self.now += count + 0.1
        getattr(self, f"_{end}")(workers)

    def _succeeded(self, workers: dict[str, list[Context]]) -> None:
        for host, own in workers.items():
            at = self.some(100, 900)
            for who in own:
                self.run.tell(at - 0.05, who, "worker.exit", code=0, message="sys.exit(0)")
                self.run.tell(at, self.agents[host], "worker.succeeded", **_worker(who, self.own[host]))
            self._over(host, at + 0.01, "succeeded")
        self.now += 1

    def _failed(self, workers: dict[str, list[Context]]) -> None:
        first = self.draw(st.sampled_from([who for own in workers.values() for who in own]))
        cause = self.draw(st.sampled_from(["SIGKILL", "SIGSEGV", "SIGABRT", 1]))
        self.lived[-1].first, self.lived[-1].died = first.pid, self.now
        if cause == 1 and self.draw(st.booleans()):
            self._failed_slowly(workers, first)
            return
        deaths = {first: (self.now, cause)}
        if cause == 1 and self.draw(st.booleans()):
            self._say_end(self.now, first)
        for own in workers.values():
            for who in own if first not in own else ():
                if self.draw(st.booleans()):  # its peer is gone, or something else kills it as soon
                    deaths[who] = (self.some(10, 200), self.draw(st.sampled_from([1, "SIGABRT", "SIGKILL"])))
                    if deaths[who][1] == 1 and self.draw(st.booleans()):
                        self._break(deaths[who][0], who)
        self._die(workers, deaths)

    def _failed_slowly(self, workers: dict[str, list[Context]], first: Context) -> None:
        """It says why it ends, and takes some time to; of its peers some break of that, and are dead before it."""
        self.slow = True
        self._say_end(self.now, first)
        deaths = {first: (self.some(0, 4000), 1)}
        for who in (who for own in workers.values() for who in own):
            if who is not first and self.draw(st.booleans()):
                deaths[who] = (self.some(10, 200), 1)
                self._break(deaths[who][0], who)
        (own,) = (own for own in workers.values() if first in own)
        others = [deaths[who][0] for who in own if who in deaths and who is not first]
        if others and min(others) < deaths[first][0]:
            del deaths[first]  # its agent ends it for them
            self.lived[-1].died = None
        else:
            self.lived[-1].died = deaths[first][0]
        self._die(workers, deaths)

    def _say_end(self, at: float, who: Context) -> None:
        """Say why, as an exit or as an exception."""
        if self.draw(st.booleans()):
            self.run.tell(at, who, "worker.exit", code=1, message="sys.exit(1)")
        else:
            self.run.tell(at, who, "worker.exception", type="ValueError", message="bad batch")

    def _break(self, at: float, who: Context) -> None:
        """Say of what: a collective whose peer is gone, and then the end."""
        self.run.tell(at - 0.004, who, "collective.failed", function="all_reduce", error="connection closed by peer")
        self._say_end(at - 0.002, who)

    def _left(self, workers: dict[str, list[Context]]) -> None:
        """One node is stopped by a signal; the others break, and go on without it."""
        host = self.draw(st.sampled_from(self.hosts))
        at = self.some(0, 100)
        handled = self.draw(st.booleans())
        for who in workers[host]:
            how = {"exit_code": 143} if handled else {"signal": "SIGTERM"}
            if handled:
                self.run.tell(at, who, "worker.exit", code=143, message="sys.exit(143)")
            facts = {**how, "first": False, "victim": True, "died_ns": _ns(at)}
            self.run.tell(at + 0.3, self.agents[host], "worker.failed", **_worker(who, self.own[host]), **facts)
        self._over(host, at + 0.31, "stopped")
        self.run.tell(at + 0.32, self.agents[host], "job.failed", reason="SignalException", signal="SIGTERM")
        self._without(host, workers)

    def _vanished(self, workers: dict[str, list[Context]]) -> None:
        """One node is gone from one moment to the next."""
        self._without(self.draw(st.sampled_from(self.hosts)), workers)

    def _without(self, host: str, workers: dict[str, list[Context]]) -> None:
        self.lived[-1].gone.add(host)
        self.lived[-1].outcome = "failed"
        self.hosts.remove(host)
        rest = {other: own for other, own in workers.items() if other != host}
        self.now += 0.15
        self._die(rest, {own[0]: (self.some(10, 200), 1) for own in rest.values()})

    def _die(self, workers: dict[str, list[Context]], deaths: dict[Context, tuple[float, Any]]) -> None:
        """Each agent sees its first, stops the others, which takes a while, and then tells of all of them."""
        over = self.now
        for host, own in workers.items():
            agent, number = self.agents[host], self.own[host]
            dead = sorted((deaths[who][0], who.pid, who) for who in own if who in deaths)
            noticed = (dead[0][0] if dead else self.now) + self.draw(st.sampled_from([0.1, 0.5, 4.0]))
            # The collector of a host sees all who die of a signal, and who exits does not tell it.
            seen = self.draw(st.booleans())
            for at, _, who in dead:
                cause = deaths[who][1]
                if seen and cause != 1:
                    self.run.tell(at + 0.2, who, "worker.died", pid=who.pid, host=host, rank=who.rank)
                how = {"exit_code": 1} if cause == 1 else {"signal": cause}
                facts = {**how, "first": at == dead[0][0], "victim": False, "died_ns": _ns(at)}
                self.run.tell(noticed + 0.1, agent, "worker.failed", **_worker(who, number), **facts)
            for who in own if dead else ():
                if who not in deaths:
                    facts = {"signal": "SIGTERM", "first": False, "victim": True, "died_ns": _ns(noticed)}
                    self.run.tell(noticed + 0.1, agent, "worker.failed", **_worker(who, number), **facts)
                    if seen:
                        self.run.tell(noticed + 0.2, who, "worker.died", pid=who.pid, host=host, rank=who.rank)
            self._over(host, noticed + 0.2, "failed" if dead else "membership")
            over = max(over, noticed + 0.3)
        self.now = over

    def _over(self, host: str, at: float, outcome: str) -> None:
        self.run.tell(at, self.agents[host], "attempt.ended", attempt=self.own[host], outcome=outcome)
        self.own[host] += 1

    def end(self, outcome: str) -> None:
        """Let the agents that are left say the end."""
        for host in self.hosts:
            self.run.tell(self.some(0, 300), self.agents[host], f"job.{outcome}", reason="workers failed")


def replace_context(who: Context, local: int, world: int) -> Context:
    """Return the context with its local rank and the number of ranks."""
    return msgspec.structs.replace(who, local_rank=local, world_size=world)


def _worker(who: Context, attempt: int) -> dict[str, Any]:
    return {"rank": who.rank, "local_rank": who.local_rank, "pid": who.pid, "attempt": attempt}


def _ns(at: float) -> int:
    return START + round(at * 1e9)


@st.composite
def jobs(draw: Any) -> Job:
    """Draw a job and the harm to its records."""
    play = _Play(draw, draw(st.integers(1, 3)), draw(st.integers(1, 2)))
    for _ in range(draw(st.integers(0, 2))):
        ways = ["failed", "left", "vanished"] if len(play.hosts) > 1 else ["failed"]
        play.attempt(draw(st.sampled_from(ways)))
    outcome = draw(st.sampled_from(["succeeded", "failed"]))
    play.attempt(outcome)
    play.end(outcome)
    skewed = draw(st.booleans())
    ahead = {host: draw(st.sampled_from([0, 0, 60, -60])) if skewed else 0 for host in play.agents}
    records = [by_clock(record, ahead[record.context.host]) for record in _counted(play.run.records)]
    harms = ["none", "twice", "order", "sinks"]
    harms += () if play.slow else ("fields", "records", "cut", "node", "workers", "agents")
    harm = draw(st.sampled_from(harms))
    before = records
    if harm in ("none", "twice", "order", "sinks"):  # else who saw that a clock was set may be lost
        records = _set(draw, records, list(play.agents))
    was_set = records is not before
    return Job(outcome, play.lived, _harmed(draw, harm, records), harm, any(ahead.values()), was_set)


def _counted(records: list[Record]) -> list[Record]:
    """Number the records of each process, in the order of its time."""
    seqs: dict[str, int] = {}
    counted = []
    for record in sorted(records, key=lambda record: record.time_ns):
        seq = seqs[record.context.process] = seqs.get(record.context.process, -1) + 1
        counted.append(msgspec.structs.replace(record, seq=seq))
    return counted


def by_clock(record: Record, ahead: int) -> Record:
    """Return the record as a clock that is so many seconds ahead shows it."""
    source, timestamp, metadata = record.fields
    died = metadata.get("died_ns")
    metadata = metadata if died is None else {**metadata, "died_ns": died + ahead * 10**9}
    return changed(record, time_ns=record.time_ns + ahead * 10**9, fields=(source, timestamp, metadata))


def _set(draw: Any, records: list[Record], hosts: list[str]) -> list[Record]:
    """Set the wall clock of a host in the middle, while its agent is there; the monotonic one goes on."""
    by = draw(st.sampled_from([0, 0, 0, 2, -2, 60, -60, 3600])) * 10**9
    if not by:
        return records
    host = draw(st.sampled_from(hosts))
    times = [record.time_ns for record in records if record.context.host == host and record.context.rank is None]
    at = draw(st.sampled_from(sorted(times)))
    if at == min(times):  # a clock that is set before the first record is one that is apart
        return records

    def after(record: Record) -> Record:
        if record.context.host != host or record.time_ns < at:
            return record
        source, timestamp, metadata = record.fields
        died = metadata.get("died_ns")
        metadata = metadata if died is None or died < at else {**metadata, "died_ns": died + by}
        return changed(record, time_ns=record.time_ns + by, fields=(source, timestamp, metadata))

    return [after(record) for record in records]


def _harmed(draw: Any, harm: str, records: list[Record]) -> list[Record]:
    chance = draw(st.randoms(use_true_random=False))
    if harm == "twice":
        records = records + chance.sample(records, len(records) // 2)
    elif harm == "order":
        records = chance.sample(records, len(records))
    elif harm == "fields":
        without = set(chance.sample(_FIELDS, 3))
        records = [_without(record, without) if chance.random() < 0.5 else record for record in records]
    elif harm == "records":
        records = [record for record in records if chance.random() < 0.9]
    elif harm == "cut":
        host, at = chance.choice(records).context.host, chance.choice(records).time_ns
        records = [record for record in records if record.context.host != host or record.time_ns < at]
    elif harm == "workers":  # no agent's records
        records = [record for record in records if record.context.rank is not None]
    elif harm == "agents":  # no worker's
        records = [record for record in records if record.context.rank is None]
    elif harm == "sinks":  # two, of which one is whole and the other ends anywhere
        records = records + records[: chance.randrange(len(records))]
    elif harm == "node":
        host = chance.choice(records).context.host
        records = [record for record in records if record.context.host != host]
    return records


def _without(record: Record, fields: set[str]) -> Record:
    source, timestamp, metadata = record.fields
    return changed(
        record, fields=(source, timestamp, {key: value for key, value in metadata.items() if key not in fields})
    )
