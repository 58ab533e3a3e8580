"""What is kept of one process while its records pass: its marks, and what it says as an agent.

One file although it is long: each record of millions is looked at once, and all that is kept of its process is kept there.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from types import MappingProxyType
from typing import Any

from elastic_events.bus.context import Context
from elastic_events.reading.clocks import JUMP, ClockSet
from elastic_events.reading.observed import Observed, script_first
from elastic_events.reading.once import Once
from elastic_events.reading.said import (
    BROKE,
    DEATHS,
    ENDS,
    FACTS,
    NAMELESS,
    SPANS,
    WORKERS,
    Mark,
    Said,
    Told,
    integer,
    later,
    whole,
)
from elastic_events.reading.story import Node, Process, Span
from elastic_events.torchrun.messages import parse
from elastic_events.torchrun.repair import Fact, Repair

__all__ = ("TORCH", "Speaker")

#: Facts that only an agent's own story has: with one of these, torch's raw stream of the same process is not needed.
_OWN = frozenset({"job.started", "attempt.started", "worker.started"})

#: Words of its own end, and of what it broke of, that are kept of one worker.
_ENDS = 16

#: What most processes have none of.
_NOTHING: Mapping[Any, Any] = MappingProxyType({})

#: What the names of torch's own events of a job begin with.
TORCH = "torchelastic.worker.status."
_NEVER = 2**63 - 1
_LOW, _HIGH = -(2**63), 2**63 - 1

#: Jumps of one process's wall clock that are kept: with more, it is not the clock.
_JUMPS = 64


def _called(what: str, facts: Mapping[str, Any]) -> Any:
    """Return what a mark is called: its kind, its id and its number."""
    own, said = facts.get("mark_id"), facts.get("step")
    number = said if isinstance(said, int | str | float | None) else repr(said)
    return (what, own if type(own) is int else None, number)


def _block(process: Process) -> None:
    """Tell which checkpoints and restores ran beside a step of their process, and so held up nobody."""
    if not process.spans or not process.starts:
        return
    # A step without an end runs on only if none that began later has ended: else its end was not recorded.
    last = next((at for at in range(len(process.ends) - 1, -1, -1) if process.ends[at]), -1)
    ends = [end or process.errors.get(at) or (_NEVER if at > last else 0) for at, end in enumerate(process.ends)]
    latest = list(accumulate(ends, max))
    for span in process.spans:
        before = bisect_left(process.starts, span.end_ns or _NEVER)
        span.blocking = not before or latest[before - 1] <= span.start_ns


class Speaker:
    """One process. `event` and `message` take its records in the order in which it recorded them.

    Times are on the process's own monotonic clock, which nobody sets, moved to the wall clock of its first record.
    """

    __slots__ = (
        *("_derived", "_epochs", "_errors", "_facts", "_first_ns", "_gathered_ns", "_last_ns"),
        *("_names", "_node", "_now", "_observed", "_open", "_owns", "_repair"),
        *("_running", "_said_last", "_set", "_spans", "_start_ns", "_steps", "_told_of"),
        *("ahead", "context", "events", "jumps", "lost", "run_id", "seq"),
    )

    def __init__(self, context: Context, time_ns: int) -> None:
        # Of a large job there are hundreds of thousands: what only few need is made when it is needed.
        self.context = context
        self.run_id: str = context.run_id
        self.seq = -1  # of the last event or message that came, for who reads them
        self.events: Once | None = None  # that were read, for them
        self._node: Node | None = None
        # Of its wall clock: how far it was ahead of the monotonic one, and then.
        self.jumps: Sequence[tuple[int, int]] = ()
        self.ahead: int = 0  # of the monotonic clock, at the first record; see `begun_ns`
        self._set: ClockSet | None = None  # when it was set last
        # Process, reason -> what a collector found missing in its ring, in all.
        self.lost: dict[tuple[str, str], int] | None = None
        self._now = _NEVER  # the same, since it was set last
        self._first_ns = self._last_ns = time_ns
        self._steps = array("q")  # of each its number, start and end: one array for three, of which there are many
        self._names: dict[int, str] | None = None
        self._errors: dict[int, int] | None = None
        self._epochs: array[int] | None = None
        self._observed: Observed | None = None  # steps that the script did not mark
        self._running: int | None = None  # the entry of the step that began last, if it is open
        self._told_of: Mapping[str, Any] = _NOTHING  # what its mark said
        # What another mark is called -> the entries that are open, the newest last.
        self._open: dict[Any, list[int]] | None = None
        self._spans: list[Span] | None = None
        self._said_last: list[tuple[int, str, Mapping[str, Any]]] | None = None
        self._facts: list[Said] | None = None
        self._derived: list[Said] | None = None  # from torch's own stream
        self._owns = False
        self._repair: Repair | None = None
        self._start_ns = 0  # of torch's last START
        self._gathered_ns = 0  # of torch's last RENDEZVOUS, until it is told what came of it

    @property
    def node(self) -> Node:
        """The node of this process as an agent."""
        if self._node is None:
            self._node = Node(self.context.host, self.context.host, self.context.pid)
        return self._node

    def event(
        self, time_ns: int, name: Any, source: Any, metadata: Any, monotonic_ns: int = 0, text: str | None = None
    ) -> None:
        """Take one event; `text` is the JSON of its metadata, where there is such."""
        if name in ("step.started", "step.ended"):
            self.step(name == "step.started", time_ns, Mark.of(metadata), monotonic_ns)
            return
        recorded_ns = time_ns
        if monotonic_ns:
            if -JUMP < time_ns - monotonic_ns - self._now < JUMP:
                time_ns = monotonic_ns + self.ahead
            else:
                time_ns = self._steady(time_ns, monotonic_ns)
        if name in DEATHS:  # a collector's word, on its clock: no sign of life
            if isinstance(metadata, dict):
                if self._first_ns == self._last_ns == recorded_ns:  # nor had there been any
                    self._first_ns, self._last_ns = _NEVER, 0
                self._say(Said(time_ns, name, metadata))
        else:
            self.seen(time_ns)
            if isinstance(metadata, dict):
                if text is not None and name in WORKERS:
                    self._told_of_worker(time_ns, name, text, time_ns - recorded_ns)
                else:
                    self._told(time_ns, name, source, metadata, time_ns - recorded_ns)

    def step(self, begins: bool, time_ns: int, mark: Mark, monotonic_ns: int = 0) -> None:
        """Take a mark of a step: what most events of a long run are, and so what has to cost least."""
        if monotonic_ns:
            if -JUMP < time_ns - monotonic_ns - self._now < JUMP:
                time_ns = monotonic_ns + self.ahead
            else:
                time_ns = self._steady(time_ns, monotonic_ns)
        facts, number = mark
        running = self._running
        if number is None:
            pass
        elif begins:
            if running is None and self._epochs is None:
                self._running = len(self._steps) // 3
                self._told_of = facts
                self._steps.extend((number, time_ns, 0))
                return
        elif facts is self._told_of and running is not None:
            self._steps[3 * running + 2] = time_ns
            self._running = None
            return
        (self._step_started if begins else self._step_ended)(time_ns, facts)

    def _told_of_worker(self, time_ns: int, name: str, text: str, moved_ns: int) -> None:
        """Keep the text: that of most facts of a large job, and small beside what it says."""
        told = later(Said(time_ns - moved_ns, name, text), moved_ns, self._set).told if moved_ns else text
        self._say(self._said(time_ns, name, told))
        self._owns = self._owns or name in _OWN

    def _told(self, time_ns: int, name: Any, source: Any, metadata: Mapping[str, Any], moved_ns: int) -> None:
        if name in FACTS:
            if moved_ns:
                metadata = later(Said(time_ns - moved_ns, name, metadata), moved_ns, self._set).facts
            self._say(self._said(time_ns, name, metadata))
            self._owns = self._owns or name in _OWN
        elif name == "recorder.lost":
            self._lost(metadata)
        elif name in ENDS or name == BROKE:
            self._said_last = [*(self._said_last or ())[1 - _ENDS :], (time_ns, name, metadata)]
        elif name == "step.observed":
            self._observed = Observed() if self._observed is None else self._observed
            self._observed.add(time_ns, metadata)
        elif name in SPANS:
            self._mark(time_ns, *SPANS[name], metadata)
        elif isinstance(name, str) and name.startswith(TORCH):
            self._hear(time_ns, name, str(source), metadata)

    def _lost(self, facts: Mapping[str, Any]) -> None:
        """Note a loss: totals, which a collector that was killed has told, too; the highest holds."""
        total = whole(facts.get("total", facts.get("count")))
        key = str(facts.get("process", facts.get("pid"))), str(facts.get("reason"))
        self.lost = {} if self.lost is None else self.lost
        self.lost[key] = max(self.lost.get(key, 0), total or 0)

    def _say(self, said: Said) -> None:
        self._facts = [] if self._facts is None else self._facts
        self._facts.append(said)

    def _said(self, time_ns: int, name: str, facts: Mapping[str, Any] | str) -> Said:
        """Return a fact. That of a rendezvous stands behind what the nodes do next: torch's own record has its end."""
        if name in ("rendezvous.completed", "rendezvous.failed") and self._gathered_ns:
            time_ns, self._gathered_ns = self._gathered_ns, 0
        elif name == "attempt.started":
            self._gathered_ns = 0  # the fact that belonged to it was lost
        return Said(time_ns, name, facts)

    def message(self, time_ns: int, message: Any, monotonic_ns: int = 0) -> None:
        """Take one rendezvous message of torch."""
        if monotonic_ns:
            time_ns = self._steady(time_ns, monotonic_ns)
        self.seen(time_ns)
        if not self._owns and isinstance(message, str):
            self._derive(time_ns, lambda repair: repair.rendezvous(message))

    def seen(self, time_ns: int, monotonic_ns: int = 0) -> None:
        """Take the time of a record that says nothing here, as a metric."""
        if monotonic_ns:
            time_ns = self._steady(time_ns, monotonic_ns)
        if time_ns > self._last_ns:
            if not self._last_ns:
                self._first_ns = time_ns
            self._last_ns = time_ns
        elif time_ns and time_ns < self._first_ns:
            self._first_ns = time_ns

    def _steady(self, time_ns: int, monotonic_ns: int) -> int:
        """Return the time of a record on the wall clock as it was at the first one."""
        now = time_ns - monotonic_ns
        if not -JUMP < now - self._now < JUMP:
            if self._now == _NEVER:
                self.ahead = now
            else:
                if len(self.jumps) < _JUMPS:
                    self.jumps = [*self.jumps, (self._now, now)]
                self._set = ClockSet(self._last_ns, monotonic_ns + self.ahead, self.ahead - self._now)
            self._now = now
        return monotonic_ns + self.ahead

    @property
    def begun_ns(self) -> int:
        """Its first record on the host's monotonic clock; 0: it is not known."""
        return 0 if self._now == _NEVER else min(self._first_ns, self._steps[1] if self._steps else _NEVER) - self.ahead

    def move(self, later_ns: int) -> None:
        """Set all times later."""
        self._first_ns += later_ns
        self._last_ns += later_ns
        self._start_ns += later_ns
        for at in (1, 2):
            self._steps[at::3] = array("q", (time and time + later_ns for time in self._steps[at::3]))
        if self._observed is not None:
            self._observed.move(later_ns)
        if self._errors:
            self._errors = {entry: time + later_ns for entry, time in self._errors.items()}
        for span in self._spans or ():
            span.start_ns += later_ns
            span.end_ns += later_ns if span.end_ns else 0
        if self._said_last:
            self._said_last = [(time + later_ns, name, facts) for time, name, facts in self._said_last]
        for facts in filter(None, (self._facts, self._derived)):
            facts[:] = [later(said, later_ns) for said in facts]

    def _finish(self, numbers: dict[bytes, "array[int]"]) -> Process:
        """Return the process. What the script marks wins over what was observed."""
        if self._repair is not None:
            self._derive(self._last_ns, Repair.started)
        marked, starts, ends = (self._steps[at::3] for at in range(3))
        for times in (starts, ends, (self._errors or _NOTHING).values()):
            if times:
                self.seen(max(times))
        if starts:
            self.seen(min(starts))
            marked = numbers.setdefault(marked.tobytes(), marked)
        steps, names = (marked, starts, ends), self._names or _NOTHING
        observed = self._observed is not None and not marked
        if self._observed is not None and observed:
            steps, names = self._observed.steps, self._observed.names
            self.seen(min(steps[1]))
        marks = (script_first(self._spans or ()), *steps, names, self._errors or _NOTHING, self._epochs)
        mute = self._first_ns > self._last_ns  # there was no sign of its life
        if mute and self._facts:
            self._first_ns = self._last_ns = self._facts[0].time_ns
        process = Process(self.context, self._first_ns, self._last_ns, *marks, self._said_last or (), observed)
        process.fetched = self._observed is not None and self._observed.fetched
        process.mute = mute
        _block(process)
        return process

    def told(self, numbers: dict[bytes, "array[int]"]) -> Told:
        """Close what the last record left open; return all that the process told.

        Processes that did the same steps share the `numbers` of these.
        """
        process = self._finish(numbers)
        return Told(process, [*(self._facts or ()), *(() if self._owns else self._derived or ())], self._node)

    # --- marks: each is a beginning and an end of one thing, by its id, or by its number and its order ---

    def _step_started(self, time_ns: int, metadata: Any) -> None:
        facts = metadata if type(metadata) is dict else {}
        if self._running is not None:
            self._leave_open(_called("step", self._told_of), self._running)
        self._running = entry = len(self._steps) // 3
        self._told_of = facts
        said = facts.get("step")
        number = said if type(said) is int and _LOW <= said <= _HIGH else whole(said)
        if number is None:
            number = entry
            self._names = {} if self._names is None else self._names
            self._names[entry] = str(said)
        self._steps.extend((number, time_ns, 0))
        if self._epochs is not None or "epoch" in facts:
            if self._epochs is None:
                self._epochs = array("q", bytes(8 * entry))
            self._epochs.append(whole(facts.get("epoch")) or 0)

    def _step_ended(self, time_ns: int, metadata: Any) -> None:
        facts = metadata if isinstance(metadata, dict) else {}
        entry, begun = self._running, self._told_of
        if (
            entry is not None
            and facts.get("mark_id") == begun.get("mark_id")
            and facts.get("step") == begun.get("step")
        ):
            self._running = None  # most steps end before the next one begins
        else:
            entry = self._close("step", facts)
        if entry is None:  # its beginning was not recorded
            self.seen(time_ns)
        elif "error" in facts:
            self._errors = {} if self._errors is None else self._errors
            self._errors[entry] = time_ns
        else:
            self._steps[3 * entry + 2] = time_ns

    def _mark(self, time_ns: int, what: str, started: bool, facts: Mapping[str, Any]) -> None:
        said = facts.get("step")
        if started:
            self._spans = [] if self._spans is None else self._spans
            self._leave_open(_called(what, facts), len(self._spans))
            path = facts.get("path") if type(facts.get("path")) is str else None
            observed, joint = facts.get("observed") is True, type(facts.get("call")) is str
            beside = facts.get("beside") is True
            span = Span(what, whole(said), time_ns, path=path, observed=observed, joint=joint, beside=beside)
            span.back = integer(facts.get("back"))
            self._spans.append(span)
            return
        entry = self._close(what, facts)
        if entry is None and what == "restore" and self._spans is not None:  # what was restored may be known only then
            entry = self._close(what, {**facts, "step": None})
            if entry is not None:
                self._spans[entry].step = whole(said)
        if entry is not None and self._spans is not None:
            self._spans[entry].end_ns = time_ns
            file_id = facts.get("file_id")
            self._spans[entry].file_id = file_id if type(file_id) is str else None
            self._spans[entry].failed = "error" in facts

    def _leave_open(self, key: Any, entry: int) -> None:
        self._open = {} if self._open is None else self._open
        self._open.setdefault(key, []).append(entry)

    def _close(self, what: str, facts: Mapping[str, Any]) -> int | None:
        """Return the newest open entry of what is called so, which is no longer open; None if there is none."""
        key = _called(what, facts)
        entries = None if self._open is None else self._open.get(key)
        if self._open is None or entries is None:
            return None
        entry = entries.pop()
        if not entries:
            del self._open[key]
        return entry

    # --- torch's own stream ---

    def _hear(self, time_ns: int, name: str, source: str, metadata: Mapping[str, Any]) -> None:
        run_id = metadata.get("run_id")
        # A bus in the launcher that was given no id, and tells the facts itself: torch knows the run's.
        if isinstance(run_id, str) and run_id != NAMELESS and (not self._owns or self.run_id == NAMELESS):
            self.run_id = run_id
        if name == f"{TORCH}RENDEZVOUS":
            self._gathered_ns = time_ns
        if self._owns:
            return
        self._derive(time_ns, lambda repair: repair.event(name, source, metadata))
        if name == f"{TORCH}START":
            self._start_ns = time_ns

    def _derive(self, time_ns: int, ask: Callable[[Repair], Sequence[Fact]]) -> None:
        if self._repair is None:
            self._repair = Repair(parse)
        try:
            facts = ask(self._repair)
        except (AttributeError, LookupError, TypeError, ValueError):  # whoever wrote this, it was not torch
            self.node.unparsed += 1
            return
        # That workers have been started follows only from whatever comes after their START.
        begun = max((at for at, fact in enumerate(facts) if fact.name == "worker.started"), default=-1)
        for at, fact in enumerate(facts):
            if fact.name in FACTS:
                self._derived = [] if self._derived is None else self._derived
                self._derived.append(self._said(self._start_ns if at <= begun else time_ns, fact.name, fact.metadata))
