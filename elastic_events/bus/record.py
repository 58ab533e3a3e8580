"""One record as handlers see it."""

from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal, NamedTuple, cast

import msgspec

from elastic_events.api import Event, EventMetadataValue, EventSource, NodeState, RdzvEvent
from elastic_events.bus.context import Context

__all__ = ("RINGS", "Kind", "MetricData", "Record")

Kind = Literal["event", "rdzv", "metric", "ledger"]

#: Kind -> the letter of the ring that holds it, in a record's id.
RINGS: dict[Kind, str] = {"event": "e", "rdzv": "e", "metric": "m", "ledger": "l"}


class MetricData(NamedTuple):
    """One metric point, as torch's `MetricHandler.emit` gets it."""

    timestamp: float  #: seconds since the epoch
    group_name: str
    name: str
    value: Any


class Record(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One event, rendezvous event, metric point or ledger, shared by all lanes: treat it as read-only.

    What a record holds was decoded from bytes and cannot hold the record: the garbage collector need not look, which
    would stop every thread of the process, training included, for a millisecond at a time.

    `fields` is the kind's own payload, in this order:

    - event: source, timestamp (milliseconds, 0 = not given), metadata
    - rdzv: run_id, message, hostname, pid, node_state, master_endpoint, rank, local_id, error_trace
    - metric: value
    - ledger: a dict, the lane's own counts when its sink was closed
    """

    kind: Kind
    seq: int  #: position in its ring; a gap is a record that was lost
    time_ns: int  #: wall clock, nanoseconds since the epoch
    monotonic_ns: int  #: the host's monotonic clock, nanoseconds
    name: str  #: of the event or metric
    channel: str  #: an event's destination, a metric's group
    fields: tuple[Any, ...]
    context: Context
    size: int = 0  #: encoded bytes
    recovered: bool = False  #: read from the flight recorder of a process that was dead by then
    built: Any = None
    memory: int = 0  #: bytes of memory that it takes; 0: nobody has weighed it
    strict: Any = None  #: `fields` again, where it is known that strict JSON has them as they are

    @property
    def id(self) -> str:
        """Run, process, ring and sequence number: the same on every retry, replay and recovery."""
        return f"{self.context.run_id}/{self.context.process}/{self.ring}/{self.seq}"

    @property
    def ring(self) -> str:
        """The ring that held it: `e` for events, `m` for metrics, `l` for a bus's own ledger."""
        return RINGS[self.kind]

    @property
    def destination(self) -> str | None:
        """The `destination` given to `record()`; None for a metric."""
        return None if self.kind == "metric" else self.channel

    @property
    def group(self) -> str | None:
        """The group given to `put_metric()`; None for other kinds."""
        return self.channel if self.kind == "metric" else None

    @property
    def event(self) -> Event | RdzvEvent | None:
        """The `Event` or `RdzvEvent` equal to what was recorded (a timestamp of 0 filled in); None for a metric."""
        return None if self.kind == "metric" else self._build()

    @property
    def metadata(self) -> Mapping[str, EventMetadataValue]:
        """Those of an event; of a ledger its counts; empty for other kinds. Read-only: the lanes share it."""
        if self.kind == "event":
            return cast("Mapping[str, EventMetadataValue]", self.fields[2])
        return cast("Mapping[str, EventMetadataValue]", self.fields[0]) if self.kind == "ledger" else {}

    @property
    def metric(self) -> MetricData | None:
        """The `MetricData`, or None for other kinds."""
        return self._build() if self.kind == "metric" else None

    def _build(self) -> Any:
        if self.built is None:
            msgspec.structs.force_setattr(self, "built", _BUILD[self.kind](self))
        return self.built


def _event(record: Record) -> Event:
    source, timestamp, metadata = record.fields
    return Event(record.name, _member(EventSource, source), timestamp or record.time_ns // 1_000_000, metadata)


def _rdzv(record: Record) -> RdzvEvent:
    run_id, message, hostname, pid, state, *rest = record.fields
    return RdzvEvent(record.name, run_id, message, hostname, pid, _member(NodeState, state), *rest)


def _metric(record: Record) -> MetricData:
    return MetricData(record.time_ns / 1e9, record.channel, record.name, record.fields[0])


def _ledger(record: Record) -> Event:
    return Event(record.name, EventSource.AGENT, record.time_ns // 1_000_000, record.fields[0])


def _member(enum: type[Enum], value: Any) -> Any:
    """Return the member of that name, or `value` where there is none: torch does not validate, and a record stays a record."""
    return enum.__members__.get(value, value) if isinstance(value, str) else value


#: Kind -> what makes the caller's object again.
_BUILD = {"event": _event, "rdzv": _rdzv, "metric": _metric, "ledger": _ledger}
