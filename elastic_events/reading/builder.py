"""From records, in any order of processes, to stories: one a run.

What an agent says in this package's words (`attempt.started`, `worker.failed`, ...) is taken as it is. An agent that
only left torch's own stream is read through the same state machine that the plug-in runs beside torch.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from elastic_events.bus.context import Context
from elastic_events.bus.record import Record
from elastic_events.reading.job import tell
from elastic_events.reading.speaker import Said, Speaker
from elastic_events.reading.story import Story
from elastic_events.torchrun.messages import parse
from elastic_events.torchrun.repair import Fact, Repair

__all__ = ("Builder", "build")

#: The id of a run that nobody gave one: torchrun's default, and ours.
NAMELESS = "none"

#: What this package's launchers and agents say; everything else that an agent records is not read.
FACTS = frozenset(
    {
        *("job.started", "job.succeeded", "job.failed", "agent.left", "attempt.started", "attempt.ended"),
        *("worker.started", "worker.succeeded", "worker.failed", "worker.died"),
        *("rendezvous.completed", "rendezvous.failed", "rendezvous.unparsed", "membership.changed"),
    }
)

#: Facts that only an agent's own story has: with one of these, torch's raw stream of the same process is not needed.
_OWN = frozenset({"job.started", "attempt.started", "worker.started"})

_TORCH = "torchelastic.worker.status."


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
        self._speakers: dict[str, Speaker] = {}
        self._ledgers: dict[str, list[dict[str, Any]]] = {}
        self._marks: dict[str, Callable[[Speaker, int, Mapping[str, Any]], None]] = {
            "step.started": Speaker.step_started,
            "step.ended": Speaker.step_ended,
            "checkpoint.started": lambda s, t, f: s.span_started("checkpoint", t, f),
            "checkpoint.ended": lambda s, t, _: s.span_ended("checkpoint", t),
            "restore.started": lambda s, t, f: s.span_started("restore", t, f),
            "restore.ended": lambda s, t, _: s.span_ended("restore", t),
        }

    def add(self, record: Record) -> None:
        """Take one record of any kind."""
        kind = record.kind
        if kind == "event":
            source, _, metadata = record.fields
            self.event(record.name, record.time_ns, source, metadata, record.context)
        elif kind == "rdzv":
            self.message(record.time_ns, record.fields[1], record.context)
        elif kind == "metric":
            self._speaker(record.context, record.time_ns)
        elif isinstance(record.fields[0], dict):
            self._ledgers.setdefault(record.context.run_id, []).append(record.fields[0])

    def event(self, name: str, time_ns: int, source: Any, metadata: Any, context: Context) -> None:
        """Take one event."""
        speaker = self._speaker(context, time_ns)
        if not isinstance(metadata, dict):
            return
        mark = self._marks.get(name)
        if mark is not None:
            mark(speaker, time_ns, metadata)
        elif name in FACTS:
            speaker.facts.append(Said(time_ns, name, metadata))
            speaker.owns = speaker.owns or name in _OWN
        elif isinstance(name, str) and name.startswith(_TORCH) and not speaker.owns:
            self._derive(speaker, time_ns, lambda repair: repair.event(name, str(source), metadata))
            if isinstance(run_id := metadata.get("run_id"), str):
                speaker.run_id = run_id
            if name == f"{_TORCH}START":
                speaker.start_ns = time_ns

    def message(self, time_ns: int, message: Any, context: Context) -> None:
        """Take one rendezvous message of torch."""
        speaker = self._speaker(context, time_ns)
        if not speaker.owns and isinstance(message, str):
            self._derive(speaker, time_ns, lambda repair: repair.rendezvous(message))

    def stories(self) -> list[Story]:
        """Return the stories of what was taken."""
        runs: dict[str, list[Speaker]] = {}
        for speaker in self._speakers.values():
            speaker.finish()
            if speaker.repair is not None:
                self._derive(speaker, speaker.process.last_ns, Repair.started)
            runs.setdefault(speaker.run_id, []).append(speaker)
        if len(runs) == 2 and NAMELESS in runs:  # a process that does not know its run's id
            nameless = runs.pop(NAMELESS)
            next(iter(runs.values())).extend(nameless)
        stories = []
        for run_id, speakers in runs.items():
            jobs = _one_by_one(speakers) if run_id == NAMELESS else [speakers]
            stories += [tell(run_id, job, self._ledgers.get(run_id, [])) for job in jobs]
        return sorted(stories, key=lambda story: story.began_ns)

    # --- inside ---

    def _speaker(self, context: Context, time_ns: int) -> Speaker:
        key = context.process or f"{context.host}:{context.pid}"
        speaker = self._speakers.get(key)
        if speaker is None:
            speaker = self._speakers[key] = Speaker(context, time_ns)
        process = speaker.process
        process.records += 1
        if time_ns > process.last_ns:
            process.last_ns = time_ns
        elif time_ns < process.first_ns:
            process.first_ns = time_ns
        return speaker

    def _derive(self, speaker: Speaker, time_ns: int, ask: Callable[[Repair], Sequence[Fact]]) -> None:
        if speaker.repair is None:
            speaker.repair = Repair(parse)
        try:
            facts = ask(speaker.repair)
        except (AttributeError, LookupError, TypeError, ValueError):  # whoever wrote this, it was not torch
            speaker.node.unparsed += 1
            return
        # That workers have been started follows only from whatever comes after their START.
        begun = max((at for at, fact in enumerate(facts) if fact.name == "worker.started"), default=-1)
        for at, fact in enumerate(facts):
            if fact.name in FACTS:
                speaker.derived.append(Said(speaker.start_ns if at <= begun else time_ns, fact.name, fact.metadata))


def _one_by_one(speakers: list[Speaker]) -> list[list[Speaker]]:
    """Part jobs that have no id of their own: one begins when all before it have ended and an agent of theirs said so."""
    jobs: list[list[Speaker]] = []
    end, over = 0, True
    for speaker in sorted(speakers, key=lambda speaker: speaker.process.first_ns):
        if over and speaker.process.first_ns > end:
            jobs.append([])
            over = False
        jobs[-1].append(speaker)
        end = max(end, speaker.process.last_ns)
        over = over or any(said.name in ("job.succeeded", "job.failed") for said in speaker.said())
    return jobs
