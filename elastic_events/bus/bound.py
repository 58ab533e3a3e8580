"""Fields that every event of one part of a program has."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

__all__ = ("Bound",)


class Bound:
    """Records events with more metadata: what `bus.bind` returns. Costs a copy of the metadata an event."""

    def __init__(self, record: Callable[[Any, str | None], object], fields: dict[str, Any]) -> None:
        self._record = record
        self._fields = fields

    def bind(self, **fields: Any) -> "Bound":
        """Return one with these fields beside those it has."""
        return Bound(self._record, {**self._fields, **fields})

    def record(self, event: Any, destination: str | None = "null") -> None:
        """As `EventBus.record`, with the bound fields in the event's metadata; those that the event has itself stay."""
        try:
            metadata = {**self._fields, **(event.metadata or {})}
            parts = {"name": event.name, "source": event.source, "timestamp": event.timestamp}
        except Exception:  # noqa: BLE001 - a rendezvous event, which has no metadata, or what raises: an emitter never does
            self._record(event, destination)
            return
        self._record(SimpleNamespace(**parts, metadata=metadata), destination)

    def __repr__(self) -> str:
        return f"<Bound {self._fields}>"
