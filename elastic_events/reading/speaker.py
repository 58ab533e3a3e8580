"""What is kept of one process while its records pass: its marks, and what it says as an agent."""

from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from elastic_events.bus.context import Context
from elastic_events.reading.story import Node, Process, Span
from elastic_events.torchrun.messages import parse
from elastic_events.torchrun.repair import Fact, Repair

__all__ = ("FACTS", "NAMELESS", "SPANS", "Said", "Speaker", "integer")

#: The id of a run that nobody gave one: torchrun's default, and ours.
NAMELESS = "none"

#: What this package's launchers and agents say; everything else that an agent records is not read.
FACTS = frozenset(
    {
        *("job.started", "job.succeeded", "job.failed", "agent.left", "attempt.started", "attempt.ended"),
        *("worker.started", "worker.succeeded", "worker.failed", "worker.died"),
        *("rendezvous.completed", "rendezvous.failed", "rendezvous.unparsed"),
    }
)

#: Facts that only an agent's own story has: with one of these, torch's raw stream of the same process is not needed.
_OWN = frozenset({"job.started", "attempt.started", "worker.started"})

#: Event of a mark that may last longer than a record -> what it marks, and whether it begins it.
SPANS = {
    f"{what}.{edge}": (what, edge == "started") for what in ("checkpoint", "restore") for edge in ("started", "ended")
}
_TORCH = "torchelastic.worker.status."
_INT64 = range(-(2**63), 2**63)


class Said(NamedTuple):
    """One fact that an agent told."""

    time_ns: int
    name: str
    facts: Mapping[str, Any]


def integer(value: Any) -> int | None:
    """Return `value` if it is an integer that a file can hold, else None: metadata is whatever somebody recorded."""
    return value if type(value) is int and value in _INT64 else None


class Speaker:
    """One process. `event` and `message` take its records in the order in which it recorded them."""

    __slots__ = (
        *("_derived", "_ends", "_facts", "_first_ns", "_last_ns", "_owns", "_repair", "_running", "_span", "_spans"),
        *("_start_ns", "_starts", "_steps", "context", "node", "run_id", "seq"),
    )

    def __init__(self, context: Context, time_ns: int) -> None:
        self.context = context
        self.run_id = context.run_id
        self.seq = -1  # of the last event or message that came, for who reads them
        self.node = Node(context.host, context.host, context.pid)
        self._first_ns = self._last_ns = time_ns
        self._running = False  # the last step
        self._steps, self._starts, self._ends = array("q"), array("q"), array("q")
        self._span: Span | None = None  # the one that is open
        self._spans: list[Span] = []
        self._facts: list[Said] = []
        self._derived: list[Said] = []  # from torch's own stream
        self._owns = False
        self._repair: Repair | None = None
        self._start_ns = 0  # of torch's last START

    def event(self, time_ns: int, name: Any, source: Any, metadata: Any) -> None:
        """Take one event. Steps come first, and cost least: they are most of a long run's events."""
        if name == "step.ended":
            if self._running:
                self._running = False
                if not (isinstance(metadata, dict) and "error" in metadata):
                    self._ends[-1] = time_ns
        elif name == "step.started":
            try:
                self._steps.append(metadata["step"])
            except (LookupError, OverflowError, TypeError):  # no step that anybody counts to
                self._running = False
                return
            self._starts.append(time_ns)
            self._ends.append(0)
            self._running = True
            if self._span is not None:
                self._span.blocking = False
        else:
            self.seen(time_ns)
            if isinstance(metadata, dict):
                self._told(time_ns, name, source, metadata)

    def _told(self, time_ns: int, name: Any, source: Any, metadata: Mapping[str, Any]) -> None:
        if name in FACTS:
            self._facts.append(Said(time_ns, name, metadata))
            self._owns = self._owns or name in _OWN
        elif name in SPANS:
            self._mark(time_ns, *SPANS[name], metadata)
        elif not self._owns and isinstance(name, str) and name.startswith(_TORCH):
            self._hear(time_ns, name, str(source), metadata)

    def message(self, time_ns: int, message: Any) -> None:
        """Take one rendezvous message of torch."""
        self.seen(time_ns)
        if not self._owns and isinstance(message, str):
            self._derive(time_ns, lambda repair: repair.rendezvous(message))

    def seen(self, time_ns: int) -> None:
        """Take the time of a record that says nothing here, as a metric."""
        if time_ns > self._last_ns:
            self._last_ns = time_ns
        elif time_ns and time_ns < self._first_ns:
            self._first_ns = time_ns

    def finish(self) -> Process:
        """Close what the last record left open; return the process."""
        if self._repair is not None:
            self._derive(self._last_ns, Repair.started)
        if self._starts:
            self.seen(min(self._starts))
            self.seen(max(self._starts))
            self.seen(max(self._ends))
        marks = (self._spans, self._steps, self._starts, self._ends)
        return Process(self.context, self._first_ns, self._last_ns, *marks)

    def said(self) -> list[Said]:
        """Return what this process said as an agent; empty for a worker."""
        return self._facts if self._owns else [*self._facts, *self._derived]

    def _mark(self, time_ns: int, what: str, started: bool, facts: Mapping[str, Any]) -> None:
        if started:
            self._span = Span(what, integer(facts.get("step")), time_ns, blocking=not self._running)
            self._spans.append(self._span)
        elif self._span is not None and self._span.what == what:
            self._span.end_ns = time_ns
            self._span = None

    # --- torch's own stream ---

    def _hear(self, time_ns: int, name: str, source: str, metadata: Mapping[str, Any]) -> None:
        self._derive(time_ns, lambda repair: repair.event(name, source, metadata))
        run_id = metadata.get("run_id")
        if isinstance(run_id, str) and run_id != NAMELESS:
            self.run_id = run_id
        if name == f"{_TORCH}START":
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
                self._derived.append(Said(self._start_ns if at <= begun else time_ns, fact.name, fact.metadata))
