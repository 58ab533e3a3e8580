"""Records made by hand."""

from typing import Any

from elastic_events.bus.record import Record, record_of

__all__ = ("changed",)

_PARTS = ("kind", "seq", "time_ns", "monotonic_ns", "name", "channel", "fields", "context", "size", "recovered")


def changed(record: Record, **parts: Any) -> Record:
    """Return `record` with other parts, be it of another kind."""
    return record_of(**{part: getattr(record, part) for part in _PARTS} | parts)
