"""From records, in any order of processes, to stories: one a run.

What an agent says in this package's words (`attempt.started`, `worker.failed`, ...) is taken as it is. An agent that
only left torch's own stream is read through the same state machine that the plug-in runs beside torch.
"""

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

from elastic_events.bus.context import Context
from elastic_events.bus.record import Record
from elastic_events.reading.clocks import set_back
from elastic_events.reading.job import Told, tell
from elastic_events.reading.speaker import NAMELESS, Speaker
from elastic_events.reading.story import Story

__all__ = ("Builder", "build", "key_of")


def key_of(context: Context) -> tuple[str, str]:
    """Return what one process's records have in common: its run, and its identity."""
    return context.run_id, context.process or f"{context.host}:{context.pid}"


def build(records: Iterable[Record]) -> list[Story]:
    """Return the stories that `records` tell, one a run, in the order in which they began.

    The records of one process have to come in the order in which it recorded them; processes may be mixed at will.
    """
    builder = Builder()
    for record in records:
        builder.add(record)
    return builder.stories()


class Builder:
    """Takes records one by one; keeps what a story needs of them."""

    def __init__(self) -> None:
        #: Processes whose events came in another order than they were recorded in, as when dead letters were replayed:
        #: what was made of them is not to be relied on.
        self.disordered: set[tuple[str, str]] = set()
        self._speakers: dict[tuple[str, str], Speaker] = {}
        self._ledgers: dict[str, list[dict[str, Any]]] = {}

    def speaker(self, context: Context, time_ns: int) -> Speaker:
        """Return what is kept of the process of `context`, which recorded something at `time_ns`."""
        key = key_of(context)
        speaker = self._speakers.get(key)
        if speaker is None:
            speaker = self._speakers[key] = Speaker(context, time_ns)
        return speaker

    def late(self, speaker: Speaker) -> None:
        """Note that an event of `speaker` came behind one that it had recorded later."""
        if speaker.context.process:  # where there is none, two may have had one pid, and begun to count anew
            self.disordered.add(key_of(speaker.context))

    def add(self, record: Record) -> None:
        """Take one record of any kind."""
        kind, time_ns = record.kind, record.time_ns
        if kind == "ledger":
            self.ledger(record.context.run_id, record.fields[0])
            return
        speaker = self.speaker(record.context, time_ns)
        if kind == "metric":
            speaker.seen(time_ns, record.monotonic_ns)
            return
        if record.seq < speaker.seq:
            self.late(speaker)
        speaker.seq = record.seq
        if kind == "event":
            source, _, metadata = record.fields
            speaker.event(time_ns, record.name, source, metadata, record.monotonic_ns)
        else:
            speaker.message(time_ns, record.fields[1], record.monotonic_ns)

    def ledger(self, run_id: str, facts: Any) -> None:
        """Take the counts of a sink that was closed."""
        if isinstance(facts, dict):
            self._ledgers.setdefault(run_id, []).append(facts)

    def stories(self) -> list[Story]:
        """Return the stories of what was taken."""
        runs: dict[str, list[Speaker]] = {}
        for speaker in self._speakers.values():
            runs.setdefault(speaker.run_id, []).append(speaker)
        if len(runs) == 2 and NAMELESS in runs:  # a process that does not know its run's id
            nameless = runs.pop(NAMELESS)
            next(iter(runs.values())).extend(nameless)
        stories = []
        _set_clocks_back(self._speakers.values())
        for run_id, speakers in runs.items():
            told = [(speaker, speaker.finish()) for speaker in speakers]
            jobs = _one_by_one(told) if run_id == NAMELESS else [told]
            stories += [tell(run_id, job, self._ledgers.get(run_id, [])) for job in jobs]
        return sorted(stories, key=lambda story: story.began_ns)


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


def _one_by_one(told: list[Told]) -> list[list[Told]]:
    """Part jobs that have no id of their own: one begins when all before it have ended and an agent of theirs said so."""
    jobs: list[list[Told]] = []
    end, over = 0, True
    for speaker, process in sorted(told, key=lambda one: one[1].first_ns):
        if over and process.first_ns > end:
            jobs.append([])
            over = False
        jobs[-1].append((speaker, process))
        end = max(end, process.last_ns)
        over = over or any(said.name in ("job.succeeded", "job.failed") for said in speaker.said())
    return jobs
