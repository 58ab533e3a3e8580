"""What is kept of one process while its records pass."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from elastic_events.bus.context import Context
from elastic_events.reading.story import Node, Process, Span
from elastic_events.torchrun.repair import Repair

__all__ = ("Said", "Speaker", "integer")

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
    """One process while its records pass: its marks, and what it says as an agent."""

    __slots__ = ("began", "derived", "facts", "node", "owns", "process", "repair", "run_id", "span", "start_ns", "step")

    def __init__(self, context: Context, time_ns: int) -> None:
        self.run_id = context.run_id
        self.process = Process(context, time_ns, time_ns)
        self.step: int | None = None  # the one that runs
        self.began = 0
        self.span: Span | None = None  # the one that is open
        self.facts: list[Said] = []
        self.derived: list[Said] = []  # from torch's own stream
        self.owns = False
        self.repair: Repair | None = None
        self.start_ns = 0  # of torch's last START
        self.node = Node(context.host, context.host, context.pid)

    def step_started(self, time_ns: int, facts: Mapping[str, Any]) -> None:
        if self.step is not None:
            self._close(0)
        self.step, self.began = integer(facts.get("step")), time_ns
        if self.step is not None and self.span is not None:
            self.span.blocking = False

    def step_ended(self, time_ns: int, facts: Mapping[str, Any]) -> None:
        if self.step is not None:
            self._close(time_ns if "error" not in facts else 0)

    def span_started(self, what: str, time_ns: int, facts: Mapping[str, Any]) -> None:
        self.span = Span(what, integer(facts.get("step")), time_ns, blocking=self.step is None)
        self.process.spans.append(self.span)

    def span_ended(self, what: str, time_ns: int) -> None:
        if self.span is not None and self.span.what == what:
            self.span.end_ns = time_ns
            self.span = None

    def finish(self) -> None:
        """Close what the last record left open."""
        if self.step is not None:
            self._close(0)

    def said(self) -> list[Said]:
        """Return what this process said as an agent; empty for a worker."""
        return self.facts if self.owns or not self.derived else [*self.facts, *self.derived]

    def _close(self, end: int) -> None:
        process = self.process
        process.steps.append(self.step or 0)
        process.starts.append(self.began)
        process.ends.append(end)
        self.step = None
