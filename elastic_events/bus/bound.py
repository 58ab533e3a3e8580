"""Fields that every event of one part of a program has."""

from collections.abc import Callable
from typing import Any

from elastic_events.api import Event
from elastic_events.bus.shape import fields_of
from elastic_events.bus.signals import is_the_callers

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
            self._record(self._whole(event, destination), destination)
        except RecursionError:  # no room for a call
            return

    def _whole(self, event: Any, destination: str | None) -> Any:
        """Return an event with the bound fields too; or `event`, if it has no metadata or raises, which `record` tells."""
        try:
            name, _, source, timestamp, metadata = fields_of(event, destination)
            return Event(name, source, timestamp, {**self._fields, **(metadata or {})})
        except BaseException as error:
            if is_the_callers(error):
                raise
            return event

    def __repr__(self) -> str:
        return f"<Bound {self._fields}>"
