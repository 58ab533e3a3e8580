"""The events themselves, as in torch.distributed.elastic.events.api."""

import json
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, Union

__all__ = ("Event", "EventMetadataValue", "EventSource", "NodeState", "RdzvEvent")

EventMetadataValue = Union[str, int, float, bool, None]  # noqa: UP007 - torch's alias is a Union, and code compares it


class EventSource(str, Enum):  # noqa: UP042 - as torch has it: str() of a StrEnum member differs
    """Who recorded an event."""

    AGENT = "AGENT"
    WORKER = "WORKER"


@dataclass
class Event:
    """Something that happened in an elastic job.

    `timestamp` is in milliseconds since the epoch; 0 means the time of the `record()` call. Mutable, unhashable and
    unvalidated, as torch's is; recording takes a snapshot.
    """

    name: str
    source: EventSource
    timestamp: int = 0
    metadata: dict[str, EventMetadataValue] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.serialize()

    @staticmethod
    def deserialize(data: "str | Event") -> "Event":
        """Return the event of `serialize()`'s text; an `Event` comes back as itself.

        Raises:
            TypeError: no text, an unknown field, or no name.
            KeyError: no source, or an unknown one.
            json.JSONDecodeError: no JSON.
        """
        if isinstance(data, Event):
            return data
        fields = _fields(data)
        fields["source"] = EventSource[fields["source"]]
        return Event(**fields)

    def serialize(self) -> str:
        """Return the event as JSON; raises `TypeError` for values that JSON cannot hold. `record()` does not call it."""
        return json.dumps(asdict(self))


class NodeState(str, Enum):  # noqa: UP042 - as above
    """State of a node in a rendezvous."""

    INIT = "INIT"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


@dataclass
class RdzvEvent:
    """Something that happened in a rendezvous.

    Args:
        name: file and function that recorded it.
        run_id: of the rendezvous.
        message: what happened, in English.
        hostname: of the node.
        pid: of the process.
        node_state: of the node.
        master_endpoint: of the master node, if it is known.
        rank: of the node, if it is known.
        local_id: identifies the node within its host.
        error_trace: a traceback, if it failed.
    """

    name: str
    run_id: str
    message: str
    hostname: str
    pid: int
    node_state: NodeState
    master_endpoint: str = ""
    rank: int | None = None
    local_id: int | None = None
    error_trace: str = ""

    def __str__(self) -> str:
        return self.serialize()

    @staticmethod
    def deserialize(data: "str | RdzvEvent") -> "RdzvEvent":
        """Return the event of `serialize()`'s text; raises as `Event.deserialize` does."""
        if isinstance(data, RdzvEvent):
            return data
        fields = _fields(data)
        fields["node_state"] = NodeState[fields["node_state"]]
        return RdzvEvent(**fields)

    def serialize(self) -> str:
        """Return the event as JSON."""
        return json.dumps(asdict(self))


def _fields(data: object) -> dict[str, Any]:
    if not isinstance(data, str):
        raise TypeError(f"deserialize takes the text that serialize made, not {type(data).__name__}")
    fields = json.loads(data)
    if not isinstance(fields, dict):
        raise TypeError(f"an event is a JSON object, not {type(fields).__name__}")
    return fields
