"""What an event is made of: torch's, ours, subclasses of either, or anything of their shape."""

import json
from typing import Any, Protocol

from elastic_events.api import Event, RdzvEvent

__all__ = ("KNOWN", "Recordable", "class_name", "fields_of", "rdzv_fields_of")


class Recordable(Protocol):
    """What `record()` takes beside our own events: torch's, and whatever says itself as JSON."""

    def serialize(self) -> str:
        """Return the event as JSON."""


_FIELDS = ("name", "source", "timestamp", "metadata")
_RDZV = ("name", "run_id", "message", "hostname", "pid", "node_state")
_RDZV_MORE = {"master_endpoint": "", "rank": None, "local_id": None, "error_trace": ""}

#: Modules whose `serialize` says what the fields say.
_ORIGINALS = ("elastic_events.api", "torch.distributed.elastic.events.api")

#: Classes whose objects are what their four fields say. Grows by those that are met, to a bound.
KNOWN: set[type] = {Event}
_MOST = 64

#: Characters of a class's name that stay.
_LONGEST = 256


def fields_of(event: Any, destination: Any) -> tuple[Any, ...]:
    """Return what a frame holds of an event: name, destination, source, timestamp, metadata.

    What a subclass adds goes to the metadata; what its own `serialize` returns counts, as with torch.

    Raises:
        AttributeError: it is no event.
    """
    kind = type(event)
    if _serializes_itself(kind):
        return _of_text(event.serialize(), kind, destination)
    fields = (event.name, destination, event.source, event.timestamp, event.metadata)
    added = [name for name in getattr(kind, "__dataclass_fields__", ()) if name not in _FIELDS]
    if added:
        return (*fields[:4], _with(fields[4], {name: getattr(event, name, None) for name in added}))
    if len(KNOWN) < _MOST:
        KNOWN.add(kind)
    return fields


def rdzv_fields_of(event: Any, destination: Any) -> tuple[Any, ...] | None:
    """Return what a frame holds of a rendezvous event; None if it is none."""
    if type(event) is not RdzvEvent and (hasattr(event, "metadata") or not hasattr(event, "node_state")):
        return None
    try:
        return (
            *(event.name, destination, event.run_id, event.message, event.hostname, event.pid, event.node_state),
            *(event.master_endpoint, event.rank, event.local_id, event.error_trace),
        )
    except AttributeError:  # of its shape, without what has a default
        name, *rest = (getattr(event, name) for name in _RDZV)
        return (name, destination, *rest, *(getattr(event, name, default) for name, default in _RDZV_MORE.items()))


def class_name(value: Any) -> str:
    """Return the name of an object's class, in ASCII and not too long; a metaclass with its own opinion is not asked."""
    return ascii(type.__dict__["__name__"].__get__(type(value))[:_LONGEST])[1:-1]


def _serializes_itself(kind: type) -> bool:
    """Whether the class has a `serialize` that is neither torch's nor ours."""
    owner = next((base for base in kind.__mro__ if "serialize" in vars(base)), None)
    return owner is not None and vars(owner).get("__module__") not in _ORIGINALS


def _of_text(text: Any, kind: type, destination: Any) -> tuple[Any, ...]:
    """Return the fields of what an event's own `serialize` made of it: the JSON of an event, or any text."""
    try:
        said = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        return (kind.__name__, destination, "WORKER", 0, {"serialized": text})
    name, source = said.pop("name", kind.__name__), said.pop("source", "WORKER")
    time, metadata = said.pop("timestamp", 0), said.pop("metadata", {})
    return (name, destination, source, time, _with(metadata, said) if said else metadata)


def _with(metadata: Any, added: dict[str, Any]) -> Any:
    """Return metadata with what else there is; where a name is in both, the metadata's own keeps it."""
    if not isinstance(metadata, dict):
        return {**added, "metadata": metadata}
    return {**added, **metadata}
