"""What each node and each rank did, and when: the rows that the terminal, the picture and the page draw."""

from collections.abc import Iterator, Sequence

import msgspec

from elastic_events.reading.answer import Answer
from elastic_events.reading.faults import fault_of
from elastic_events.reading.redone import Range, redone
from elastic_events.reading.steps import cut
from elastic_events.reading.story import Attempt, Node, Process, Story, Worker
from elastic_events.reading.words import error_line, seconds, spans

__all__ = ("NAMES", "RANKS", "STATES", "Band", "Box", "Mark", "Row", "Timeline", "alike", "ended", "timeline")

#: State -> what it is. Of two at the same time the later one of this list is drawn above the other.
STATES = {
    "rendezvous": "waiting for the other nodes",
    "startup": "from the start of the process to its first step",
    "restore": "loading a checkpoint",
    "running": "in an attempt, without marked steps",
    "training": "from its first step on",
    "lost": "steps that were done again or cut off",
    "checkpoint": "writing a checkpoint",
}

#: State -> its name in a legend, the same in every drawing.
NAMES = {state: {"startup": "start-up", "lost": "lost steps"}.get(state, state) for state in STATES}

#: With more ranks than this there is a row a node, for all of its ranks together.
RANKS = 64


class Box(msgspec.Struct, frozen=True):
    """A state that lasted. Seconds are from the beginning of the job."""

    start_s: float
    end_s: float
    state: str  #: one of `STATES`
    attempt: int  #: that it was part of
    label: str = ""  #: which steps, or which round


class Mark(msgspec.Struct, frozen=True):
    """How a worker ended."""

    at_s: float  #: when the agent noticed
    kind: str  #: first: the failure that ended the attempt; failed; victim: its agent ended it; succeeded
    attempt: int  #: that it ended
    label: str  #: rank, cause and message


class Row(msgspec.Struct, frozen=True):
    """One node, or one rank of the node above it."""

    label: str  #: name of the node, or the rank
    kind: str  #: node or rank
    node: int  #: number of its node, in the order of the rows
    ranks: int  #: how many there are of in it
    boxes: list[Box]  #: what it did
    marks: list[Mark]  #: how it ended, an attempt each
    which: str = ""  #: its ranks, over all attempts: "0-7, 16"


class Band(msgspec.Struct, frozen=True):
    """An attempt, over all nodes."""

    attempt: int  #: its number
    start_s: float  #: of its workers
    end_s: float  #: of its last worker
    outcome: str  #: succeeded, failed, membership, stopped, left, unknown
    cause: str  #: of its first failure, in words; empty without one
    failed_s: float | None  #: when that was noticed


class Timeline(Answer, frozen=True):
    """What `elastic-events timeline --json` prints."""

    run_id: str  #: of the job
    outcome: str  #: succeeded, failed, unknown
    began_ns: int  #: nanoseconds since the epoch
    wall_s: float  #: from the beginning of the job to its end, or to the last record
    bands: list[Band]  #: the attempts
    rows: list[Row]  #: each node, followed by its ranks, where there are at most `RANKS` of them
    version: int = 1  #: of this schema: another one only where a field goes, or means something else


def timeline(story: Story) -> Timeline:
    """Return the rows of a run: each node in the order in which it came, followed by its processes where they are few."""
    run = _Run(story)
    waits: dict[Node | None, list[Box]] = {node: [] for node in story.nodes}
    slots: dict[Node | None, dict[int, list[tuple[Attempt, Worker]]]] = {node: {} for node in story.nodes}
    for attempt in story.attempts:
        for r in attempt.rendezvous:
            label = "" if r.round is None else f"round {r.round}"
            label += "" if r.completed else " failed"
            waits.setdefault(r.node, []).append(run.box(r.start_ns, r.end_ns, "rendezvous", attempt, label))
        for worker in attempt.workers:
            slot = worker.local_rank if worker.local_rank is not None else worker.rank
            slots.setdefault(worker.node, {}).setdefault(-1 if slot is None else slot, []).append((attempt, worker))
    for r in story.gathering:
        label = "no attempt" if r.completed else "failed"
        box = run.box(r.start_ns, r.end_ns, "rendezvous", Attempt(len(story.attempts)), label)
        waits.setdefault(r.node, []).append(box)
    many = sum(map(len, slots.values())) > RANKS
    rows: list[Row] = []
    for number, node in enumerate(slots):
        own = slots[node]
        name = node.name if node is not None else next((w.host for s in own.values() for _, w in s), "")
        if many:
            rows.append(run.together(name, number, waits.get(node, []), own))
            continue
        rows.append(Row(name, "node", number, len(own), waits.get(node, []), [], _ranks(own)))
        for slot in sorted(own):
            boxes = [box for attempt, worker in own[slot] for box in run.boxes(attempt, worker)]
            marks = [mark for attempt, worker in own[slot] for mark in run.marks(attempt, worker)]
            rows.append(Row(_slot_name(slot, own[slot]), "rank", number, 1, boxes, marks, _ranks({slot: own[slot]})))
    bands = [run.band(attempt) for attempt in story.attempts]
    return Timeline(story.run_id, story.outcome, story.began_ns, story.wall_s, bands, rows)


def ended(band: Band) -> str:
    """Return in words how an attempt ended that another one had to follow; empty where it succeeded or nobody said."""
    if band.cause:
        at = "" if band.failed_s is None else f" at {seconds(band.failed_s)}"
        return f"attempt {band.attempt} failed{at}, {band.cause}"
    why = {"failed": "failed", "membership": "ended as nodes came or went", "stopped": "was stopped"}.get(band.outcome)
    return f"attempt {band.attempt} {why} at {seconds(band.end_s)}" if why else ""


def alike(rows: Sequence[Row], resolution_s: float) -> Iterator[tuple[Row, list[Row]]]:
    """Group rows that look the same at `resolution_s` seconds a step; give one of each group, and all of it."""
    groups: dict[object, list[Row]] = {}
    for row in rows:
        boxes = tuple((round(b.start_s / resolution_s), round(b.end_s / resolution_s), b.state) for b in row.boxes)
        marks = tuple((round(mark.at_s / resolution_s), mark.kind) for mark in row.marks)
        groups.setdefault((row.kind, boxes, marks), []).append(row)
    for group in groups.values():
        yield group[0], group


class _Run:
    """A story, with what every worker's row asks of it."""

    def __init__(self, story: Story) -> None:
        self.began_ns = story.began_ns
        self.spans = {attempt.number: story.span(attempt) for attempt in story.attempts}
        self.first = {attempt.number: attempt.first_failure for attempt in story.attempts}
        self.lost = redone(story).lost
        self.marked = any(process.starts for process in story.processes)

    def boxes(self, attempt: Attempt, worker: Worker) -> Iterator[Box]:
        """Give what one worker did in one attempt."""
        began, over = self.spans[attempt.number]
        start = worker.started_ns if worker.started_ns is not None else began
        end = max(start, worker.ended_ns if worker.ended_ns is not None else over)
        process = worker.process
        if process is None or not process.starts:
            yield self.box(start, end, "startup" if self.marked else "running", attempt, "")
        else:
            first = process.starts[0]
            label = f"steps {process.label(0)} to {process.label(len(process.steps) - 1)}"
            yield self.box(start, first, "startup", attempt, "")
            for low, high, state in _phases(process, end, self.lost.get(process, ()), _cut(attempt, process)):
                yield self.box(low, high, state, attempt, label)
        for span in process.spans if process is not None else ():
            step = "" if span.step is None else f"step {span.step}"
            yield self.box(span.start_ns, span.end_ns or end, span.what, attempt, step)

    def together(self, name: str, number: int, waits: list[Box], slots: dict[int, list[tuple[Attempt, Worker]]]) -> Row:
        """Return one row for all ranks of a node: in each attempt from the first that began to the last that ended."""
        attempts: dict[int, tuple[Attempt, list[Worker]]] = {}
        for pairs in slots.values():
            for attempt, worker in pairs:
                attempts.setdefault(attempt.number, (attempt, []))[1].append(worker)
        boxes = list(waits)
        marks: list[Mark] = []
        for attempt, workers in attempts.values():
            boxes += self._shared(attempt, workers)
            told = {"", "succeeded"}
            for worker in workers:
                kind = self._kind(attempt, worker)
                if kind not in told:
                    told.add(kind)
                    marks += self.marks(attempt, worker)
        return Row(name, "node", number, len(slots), boxes, marks, _ranks(slots))

    def _shared(self, attempt: Attempt, workers: list[Worker]) -> Iterator[Box]:
        began, over = self.spans[attempt.number]
        start = min(began if w.started_ns is None else w.started_ns for w in workers)
        end = max(start, *(over if w.ended_ns is None else w.ended_ns for w in workers))
        processes = [worker.process for worker in workers if worker.process is not None]
        first = min((process.starts[0] for process in processes if process.starts), default=None)
        if first is None:
            yield self.box(start, end, "startup" if self.marked else "running", attempt, "")
            return
        yield self.box(start, first, "startup", attempt, "")
        most = max(processes, key=lambda process: len(process.starts))
        for low, high, state in _phases(most, end, self.lost.get(most, ()), _cut(attempt, most)):
            yield self.box(max(first, low) if low > most.starts[0] else first, high, state, attempt, "")
        for span in max((process.spans for process in processes), key=len):
            yield self.box(span.start_ns, span.end_ns or end, span.what, attempt, "")

    def marks(self, attempt: Attempt, worker: Worker) -> Iterator[Mark]:
        """Give how one worker ended."""
        kind = self._kind(attempt, worker)
        if not kind or worker.ended_ns is None:
            return
        said = fault_of(worker).message
        message = [error_line(said)] if said else []
        words = [_who(worker), worker.cause or worker.outcome, *message]
        yield Mark(self.seconds(worker.ended_ns), kind, attempt.number, ": ".join(words))

    def _kind(self, attempt: Attempt, worker: Worker) -> str:
        """Return the kind of its mark; empty: it has none."""
        if worker.outcome == "unknown" or worker.ended_ns is None:
            return ""
        if worker.outcome != "failed":
            return worker.outcome
        return "first" if worker is self.first[attempt.number] else "victim" if worker.victim else "failed"

    def band(self, attempt: Attempt) -> Band:
        """Return an attempt as a whole."""
        start, end = self.spans[attempt.number]
        first = self.first[attempt.number]
        cause = "" if first is None else f"{_who(first)}: {first.cause or 'cause unknown'}"
        failed = self.seconds(first.ended_ns) if first is not None and first.ended_ns is not None else None
        return Band(attempt.number, self.seconds(start), self.seconds(end), attempt.outcome, cause, failed)

    def box(self, start: int, end: int, state: str, attempt: Attempt, label: str) -> Box:
        """Return a state that lasted."""
        return Box(self.seconds(start), self.seconds(max(start, end)), state, attempt.number, label)

    def seconds(self, time_ns: int) -> float:
        """Return seconds from the beginning of the job."""
        return round((time_ns - self.began_ns) / 1e9, 6)


def _who(worker: Worker) -> str:
    return "a process" if worker.rank is None else f"rank {worker.rank}"


def _phases(
    process: Process, end: int, again: Sequence[Range], cut_off: Sequence[int]
) -> Iterator[tuple[int, int, str]]:
    """Give the times from the first step to the end, as training or lost: steps done again, and from the cut one on."""
    at = process.starts[0]
    spans = [(process.starts[low], process.starts[high] if high < len(process.starts) else end) for low, high in again]
    spans += [(process.starts[entry], end) for entry in cut_off[:1]]
    for low, high in sorted(spans):
        if low > at:
            yield at, low, "training"
        if high > max(low, at):
            yield max(low, at), high, "lost"
        at = max(at, high)
    if end > at or not spans:
        yield at, end, "training"


def _cut(attempt: Attempt, process: Process) -> Sequence[int]:
    return cut(process) if attempt.outcome not in ("unknown", "succeeded") else ()


def _ranks(slots: dict[int, list[tuple[Attempt, Worker]]]) -> str:
    found = {worker.rank for pairs in slots.values() for _, worker in pairs if worker.rank is not None}
    return spans(sorted(found), limit=len(found))


def _slot_name(slot: int, workers: list[tuple[Attempt, Worker]]) -> str:
    ranks = list(dict.fromkeys(worker.rank for _, worker in workers if worker.rank is not None))
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"process {slot}" if slot >= 0 else "process"
