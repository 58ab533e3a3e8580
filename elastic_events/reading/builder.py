"""From records, in any order of processes, to stories: one a run.

What an agent says in this package's words (`attempt.started`, `worker.failed`, ...) is taken as it is. An agent that
only left torch's own stream is read through the same state machine that the plug-in runs beside torch.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any

import msgspec

from elastic_events.bus.context import Context
from elastic_events.bus.record import Record
from elastic_events.reading.clocks import set_back
from elastic_events.reading.job import assemble
from elastic_events.reading.once import Once
from elastic_events.reading.ranks import program
from elastic_events.reading.said import DEATHS, NAMELESS, Mark, Told
from elastic_events.reading.speaker import Speaker
from elastic_events.reading.story import Process, Story

__all__ = ("Builder", "Marks", "build", "key_of")


def key_of(context: Context) -> tuple[str, str]:
    """Return what one process's records have in common: its run, and its identity."""
    return context.run_id, context.process or f"{context.host}:{context.pid}"


def build(records: Iterable[Record]) -> list[Story]:
    """Return the stories that `records` tell, one a run, in the order in which they began.

    The records of one process have to come in the order in which it recorded them; processes may be mixed at will. One
    that comes again, from another source or the same, counts once.
    """
    builder = Builder()
    for record in records:
        builder.add(record)
    return builder.stories()


class Marks(dict[Any, Mark]):
    """Text of JSON -> what it says as a step's mark. It is the same on all ranks: it is decoded once, and is one object."""

    def __missing__(self, text: Any) -> Mark:
        if len(self) >= _MARKS:
            self.clear()
        mark = self[text] = Mark.of(_decode(text))
        return mark


_decode = msgspec.json.Decoder().decode
_MARKS = 65_536


class Builder:
    """Takes records one by one; keeps what a story needs of them."""

    def __init__(self) -> None:
        #: Processes whose events came in another order than they were recorded in, as when dead letters were replayed:
        #: what was made of them is not to be relied on.
        self.disordered: set[tuple[str, str]] = set()
        #: Told now and then how much of a source was read: 0 to 1.
        self.progress: Callable[[float], object] = lambda _share: None
        self._heard: dict[tuple[str, str], Speaker] = {}
        self._ledgers: dict[str, dict[Any, dict[str, Any]]] = {}
        self._source = ""
        self._runs: set[str] = set()  # of which the source has records
        self._spoken: dict[str, set[str]] = {"": self._runs}
        self._losses: list[tuple[str, dict[tuple[str, str], int]]] = []  # of each run, as its processes told them
        self._closed: dict[str, set[str]] = {}  # run -> hosts and sources that have a ledger of it

    def begin(self, source: str) -> None:
        """What comes now comes from `source`, which is to end with a ledger; empty for one that has none."""
        self._source = source
        self._runs = self._spoken.setdefault(source, set())

    def heard(self, context: Context, time_ns: int) -> Speaker:
        """Return what is kept of the process of `context`, which recorded something at `time_ns`."""
        key = key_of(context)
        speaker = self._heard.get(key)
        self._runs.add(context.run_id)
        if speaker is None:
            speaker = self._heard[key] = Speaker(context, time_ns)
        return speaker

    def first(self, speaker: Speaker, name: object, seq: int, *, again: bool = True) -> bool:
        """Whether an event comes for the first time; with `again` false it is known to. Note one that comes late."""
        if name in DEATHS:  # another's word, which counts once by itself
            return True
        if speaker.context.process:  # without an identity, two may have had one pid, and begun to count anew
            if again:
                if speaker.events is None:
                    speaker.events = Once()
                if not speaker.events.new(seq):
                    return False
            if seq < speaker.seq:
                self.disordered.add(key_of(speaker.context))
        speaker.seq = seq
        return True

    def add(self, record: Record) -> None:
        """Take one record of any kind."""
        kind, time_ns, context = record.kind, record.time_ns, record.context
        if kind == "ledger":
            self.ledger(context, record.seq, record.fields[0])
            return
        speaker = self.heard(context, time_ns)
        if kind == "metric":
            speaker.seen(time_ns, record.monotonic_ns)
            return
        if not self.first(speaker, record.name, record.seq):
            return
        if kind == "event":
            source, _, metadata = record.fields
            speaker.event(time_ns, record.name, source, metadata, record.monotonic_ns)
        else:
            speaker.message(time_ns, record.fields[1], record.monotonic_ns)

    def ledger(self, context: Context, seq: int, facts: Any) -> None:
        """Take the counts of a sink that was closed."""
        if isinstance(facts, dict):
            self._ledgers.setdefault(context.run_id, {})[context.process, seq, str(facts.get("lane"))] = facts
            self._closed.setdefault(context.run_id, set()).update((context.host, self._source))

    def stories(self) -> list[Story]:
        """Return the stories of what was taken, once: what was kept for them is gone then."""
        _set_clocks_back(self._heard.values())
        self._losses = [(speaker.run_id, speaker.lost) for speaker in self._heard.values() if speaker.lost]
        runs: dict[str, list[Speaker]] = {}
        for speaker in self._heard.values():
            runs.setdefault(speaker.run_id, []).append(speaker)
        self._heard.clear()  # of hundreds of thousands: each goes as soon as it has told
        if len(runs) == 2 and NAMELESS in runs:  # a process that does not know its run's id
            nameless = runs.pop(NAMELESS)
            next(iter(runs.values())).extend(nameless)
        stories = []
        numbers: dict[bytes, array[int]] = {}
        for run_id, speakers in runs.items():
            told = []
            speakers.reverse()
            while speakers:
                told.append(speakers.pop().told(numbers))
            jobs = _one_by_one(told) if run_id == NAMELESS else _anew(told)
            for job in jobs:
                story = assemble(run_id, job)
                # The ledger of a launcher that does not know its run's id is that of the only run there is.
                self._close(story, {NAMELESS} if len(runs) == 1 else set())
                stories.append(story)
        return sorted(stories, key=lambda story: story.began_ns)

    def _lost(self, runs: set[str]) -> dict[str, int]:
        """Return what rings overwrote before a collector came, by reason: each loss once, whoever told it."""
        totals: dict[tuple[str, str], int] = {}
        for run_id, own in self._losses:
            if run_id in runs:
                for key, total in own.items():
                    totals[key] = max(totals.get(key, 0), total)
        lost: Counter[str] = Counter()
        for (_, reason), total in totals.items():
            lost[reason] += total
        return dict(lost)

    def _close(self, story: Story, others: set[str]) -> None:
        """Give a story its ledgers, and the sources that have none of it; where each has one, the nodes that closed none.

        `others` are runs whose ledgers are its own, too.
        """
        runs = {process.context.run_id for process in story.processes} | others  # torch may know it by another name
        story.ledgers = [facts for run in runs for facts in self._ledgers.get(run, {}).values()]
        story.lost = self._lost(runs)
        closed = set().union(*(self._closed.get(run, ()) for run in runs))
        sources = [source for source, spoken in self._spoken.items() if runs & spoken and source not in closed]
        if sources or not closed:
            story.unclosed = [source for source in sources if source]
        else:
            story.unclosed = [node.name for node in story.nodes if node.agent and node.host not in closed]


def _set_clocks_back(speakers: Iterable[Speaker]) -> None:
    """Put the processes of a host whose wall clock was set between their beginnings on one clock: the first one's."""
    hosts: dict[str, list[Speaker]] = {}
    for speaker in speakers:
        if speaker.begun_ns:
            hosts.setdefault(speaker.context.host, []).append(speaker)
    for own in hosts.values():
        jumps = [jump for speaker in own for jump in speaker.jumps]
        if jumps:
            own.sort(key=attrgetter("begun_ns"))
            for speaker, later in zip(own, set_back([speaker.ahead for speaker in own], jumps), strict=True):
                if later:
                    speaker.move(later)


def _anew(told: list[Told]) -> list[list[Told]]:
    """Part the jobs of one id. One that had failed goes on, from a queue; but where it had succeeded, another one begins.

    Of several hosts nobody knows: their clocks may be apart.
    """
    if len({one.process.context.host for one in told}) > 1:
        return [told]
    jobs: list[list[Told]] = [[]]
    end, over = 0, False
    for one in sorted(told, key=lambda one: one.process.first_ns):
        names = {said.name for said in one.facts}
        if over and one.process.first_ns > end and "attempt.started" in names:
            jobs.append([])
            over = False
        jobs[-1].append(one)
        end = max(end, one.process.last_ns)
        over = over or "job.succeeded" in names
    return jobs


def _one_by_one(told: list[Told]) -> list[list[Told]]:
    """Part jobs that have no id of their own: one begins when all before it have ended and an agent of theirs said so.

    So does a program that has neither agent nor rank, as those before it had none: a script that ran twice is two runs.
    """
    jobs: list[list[Told]] = []
    end, over = 0, True
    for one in sorted(told, key=lambda one: one.process.first_ns):
        if one.process.first_ns > end and (over or _begins(one.process, jobs[-1])):
            jobs.append([])
            over = False
        jobs[-1].append(one)
        end = max(end, one.process.last_ns)
        over = over or any(said.name in ("job.succeeded", "job.failed") for said in one.facts)
    return jobs


def _begins(process: Process, job: list[Told]) -> bool:
    """Whether a process that marks steps after all of `job` has ended is another run: nobody has an agent, nor a rank."""
    before = [one.process for one in job if one.process.steps]
    alone = all(one.context.rank is None for one in (process, *before)) and not any(one.facts for one in job)
    return bool(process.steps and before) and alone and program(process) not in map(program, before)
