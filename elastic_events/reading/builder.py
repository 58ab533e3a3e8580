"""From records, in any order of processes, to stories: one a run.

What an agent says in this package's words (`attempt.started`, `worker.failed`, ...) is taken as it is. An agent that
only left torch's own stream is read through the same state machine that the plug-in runs beside torch.
"""

from array import array
from collections.abc import Callable, Collection, Iterable
from operator import attrgetter
from typing import Any

import msgspec

from elastic_events.bus.context import Context
from elastic_events.bus.record import Record
from elastic_events.reading.clocks import set_back
from elastic_events.reading.job import assemble
from elastic_events.reading.once import Once
from elastic_events.reading.said import DEATHS, NAMELESS, Mark
from elastic_events.reading.shares import Closed, Lost, Shares, anew, at_once, one_by_one
from elastic_events.reading.speaker import Speaker
from elastic_events.reading.story import Story

__all__ = ("Builder", "Marks", "build", "key_of")


def key_of(context: Context) -> tuple[str, str]:
    """Return what one process's records have in common: its run, and its identity."""
    return context.run_id, context.process or f"{context.host}:{context.pid}"


def build(records: Iterable[Record]) -> list[Story]:
    """Return the stories that `records` tell, one a run, in the order in which they began.

    They may come in any order; one that comes again, from another source or the same, counts once.
    """
    records = list(records)
    builder = Builder()
    for record in records:
        builder.add(record)
    if builder.disordered:
        builder = Builder(builder.disordered)
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
    """Takes records one by one; keeps what a story needs of them.

    Those of one process have to come in the order in which it recorded them; processes may be mixed at will. The events of
    `disordered` ones are held until all have come, and taken in their order.
    """

    def __init__(self, disordered: Collection[tuple[str, str]] = ()) -> None:
        #: Processes whose events came in another order than they were recorded in, as when dead letters were replayed:
        #: what was made of them is not to be relied on.
        self.disordered: set[tuple[str, str]] = set()
        #: Told now and then how much of a source was read: 0 to 1.
        self.progress: Callable[[float], object] = lambda _share: None
        self._wait_for = disordered
        self._held: list[Record] = []
        self._heard: dict[str, dict[str, Speaker]] = {}  # run -> identity -> what is kept of the process
        self._ledgers: dict[str, dict[Any, Closed]] = {}
        self._source = ""
        self._runs: set[str] = set()  # of which the source has records
        self._spoken: dict[str, set[str]] = {"": self._runs}
        self._losses: list[tuple[str, Lost]] = []  # of each run

    def begin(self, source: str) -> None:
        """What comes now comes from `source`, which is to end with a ledger; empty for one that has none."""
        self._source = source
        self._runs = self._spoken.setdefault(source, set())

    def heard(self, context: Context, time_ns: int) -> Speaker:
        """Return what is kept of the process of `context`, which recorded something at `time_ns`."""
        run_id, process = key_of(context)
        self._runs.add(run_id)
        own = self._heard.get(run_id)
        if own is None:
            own = self._heard[run_id] = {}
        speaker = own.get(process)
        if speaker is None:
            speaker = own[process] = Speaker(context, time_ns)
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
        if self._wait_for and kind in ("event", "rdzv") and key_of(context) in self._wait_for:
            self._runs.add(context.run_id)
            self._held.append(record)
            return
        if kind == "ledger":
            self.ledger(context, record.seq, record.fields[0], time_ns)
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

    def ledger(self, context: Context, seq: int, facts: Any, time_ns: int) -> None:
        """Take the counts of a sink that was closed at `time_ns`."""
        if isinstance(facts, dict):
            own = self._ledgers.setdefault(context.run_id, {})
            key = context.process, seq, str(facts.get("lane"))
            before = own[key].sources if key in own else frozenset()
            own[key] = Closed(context, time_ns, facts, before | {self._source})

    def stories(self) -> list[Story]:
        """Return the stories of what was taken, once: what was kept for them is gone then."""
        self._wait_for = ()
        for record in sorted(self._held, key=attrgetter("seq")):
            self.add(record)
        heard = [speaker for own in self._heard.values() for speaker in own.values()]
        self._heard.clear()  # of hundreds of thousands: each goes as soon as it has told
        _set_clocks_back(heard)
        self._losses = [(s.run_id, Lost(s.context, s.lost)) for s in heard if s.lost]
        runs: dict[str, list[Speaker]] = {}
        for speaker in heard:
            runs.setdefault(speaker.run_id, []).append(speaker)
        del heard
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
            part = one_by_one if run_id == NAMELESS else anew
            jobs = [job for some in at_once(told) for job in part(some)]
            shares = Shares(jobs)
            for at, job in enumerate(jobs):
                story = assemble(run_id, job)
                # The ledger of a launcher that does not know its run's id is that of the only run there is.
                self._close(story, {NAMELESS} if len(runs) == 1 else set(), shares, at)
                stories.append(story)
        return sorted(stories, key=lambda story: story.began_ns)

    def _close(self, story: Story, others: set[str], shares: Shares, at: int) -> None:
        """Give a story its ledgers, and the sources that have none of it; where each has one, the nodes that closed none.

        `others` are runs whose ledgers are its own, too. Among those of `shares` it is the one `at` a place.
        """
        runs = {process.context.run_id for process in story.processes} | others  # torch may know it by another name
        closed = [closed for run in runs for closed in self._ledgers.get(run, {}).values()]
        story.ledgers, closers = shares.ledgers(at, closed)
        story.lost = shares.losses(at, (lost for run_id, lost in self._losses if run_id in runs))
        sources = [source for source, spoken in self._spoken.items() if runs & spoken and source not in closers]
        if sources or not closers:
            story.unclosed = [source for source in sources if source]
        else:
            story.unclosed = [node.name for node in story.nodes if node.agent and node.host not in closers]


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
