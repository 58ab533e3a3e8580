"""Marks in a training loop, for `elastic-events goodput`: what a step, a checkpoint and a restore are."""

from types import TracebackType
from typing import Any, Self

from elastic_events.api import Event, EventSource
from elastic_events.front import record

__all__ = ("checkpoint", "restore", "step")


class _Span:
    """Records `{what}.started` on entering and `{what}.ended` on leaving, also by an exception: two emits, nothing else."""

    __slots__ = ("_metadata", "_what")

    def __init__(self, what: str, metadata: dict[str, Any]) -> None:
        self._what = what
        self._metadata = metadata

    def __enter__(self) -> Self:
        record(Event(f"{self._what}.started", EventSource.WORKER, 0, self._metadata))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        metadata = self._metadata if kind is None else {**self._metadata, "error": kind.__name__}
        record(Event(f"{self._what}.ended", EventSource.WORKER, 0, metadata))


def step(number: int, /, **metadata: Any) -> _Span:
    """Mark one training step: `with elastic_events.step(n): ...`. `metadata` goes into both events."""
    return _Span("step", {"step": number, **metadata})


def checkpoint(number: int, /, **metadata: Any) -> _Span:
    """Mark the writing of a checkpoint that holds all steps up to `number`."""
    return _Span("checkpoint", {"step": number, **metadata})


def restore(number: int | None = None, /, **metadata: Any) -> _Span:
    """Mark the loading of a checkpoint; training goes on after step `number`."""
    return _Span("restore", {"step": number, **metadata})
