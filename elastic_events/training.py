"""Marks in a training loop, for `elastic-events goodput` and `slow`: what a step, a checkpoint and a restore are."""

from itertools import count
from types import TracebackType
from typing import Any, Self

from elastic_events.api import Event, EventSource
from elastic_events.front import record

__all__ = ("checkpoint", "mark", "restore", "step")

#: Numbers the marks of this process: what says which end belongs to which beginning, where marks overlap and numbers repeat.
_marks = count(1)


class _Span:
    """Records `{what}.started` on entering and `{what}.ended` on leaving, also by an exception: two emits, nothing else."""

    __slots__ = ("_metadata", "_what")

    def __init__(self, what: str, metadata: dict[str, Any]) -> None:
        self._what = what
        self._metadata = metadata

    def __enter__(self) -> Self:
        self._metadata = {**self._metadata, "mark_id": next(_marks)}
        record(Event(f"{self._what}.started", EventSource.WORKER, 0, self._metadata))
        return self

    def add(self, **metadata: Any) -> None:
        """Say more of it where it ends: what was not known when it began."""
        self._metadata = {**self._metadata, **metadata}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        metadata = self._metadata if kind is None else {**self._metadata, "error": kind.__name__}
        record(Event(f"{self._what}.ended", EventSource.WORKER, 0, metadata))


def mark(what: str, **metadata: Any) -> _Span:
    """Mark something else that lasts, as the callbacks for frameworks do: an epoch, an evaluation."""
    return _Span(what, metadata)


def step(number: object, /, **metadata: Any) -> _Span:
    """Mark one training step: `with elastic_events.step(n): ...`. `metadata` goes into both events.

    Numbers that begin anew in each epoch want `epoch=`, a whole number: then a restart's lost work is known exactly.
    Steps may overlap and nest. A number that is not whole, or a text, names the step; its order is then not known.
    """
    return _Span("step", {"step": number, **metadata})


def checkpoint(number: object, /, **metadata: Any) -> _Span:
    """Mark the writing of a checkpoint that holds all steps up to `number`. One beside a running step costs nothing."""
    return _Span("checkpoint", {"step": number, **metadata})


def restore(number: object = None, /, **metadata: Any) -> _Span:
    """Mark the loading of a checkpoint; training goes on after step `number`. Within a run it says that it was rolled back."""
    return _Span("restore", {"step": number, **metadata})
