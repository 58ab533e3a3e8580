"""One record as handlers see it."""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar, cast

import msgspec

from elastic_events.api import Event, EventMetadataValue, EventSource, NodeState, RdzvEvent
from elastic_events.bus.context import Context

__all__ = (
    "RINGS",
    "EventRecord",
    "Kind",
    "LedgerRecord",
    "MetricData",
    "MetricRecord",
    "RdzvRecord",
    "Record",
    "record_of",
)

Kind = Literal["event", "rdzv", "metric", "ledger"]

#: What a payload holds.
V = TypeVar("V", bound=EventMetadataValue)

#: Kind -> the letter of the ring that holds it, in a record's id.
RINGS: dict[Kind, str] = {"event": "e", "rdzv": "e", "metric": "m", "ledger": "l"}

#: Who speaks before anybody says who.
_NOBODY = Context()


class MetricData(NamedTuple):
    """One metric point, as torch's `MetricHandler.emit` gets it."""

    timestamp: float  #: seconds since the epoch
    group_name: str
    name: str
    value: Any


class _Head(msgspec.Struct, frozen=True, eq=False, gc=False, array_like=True):
    seq: int  #: position in its ring; a gap is a record that was lost
    monotonic_ns: int  #: the host's monotonic clock, nanoseconds
    name: str  #: of the event or metric
    channel: str  #: an event's destination, a metric's group


class Record(_Head, frozen=True, eq=False, gc=False, kw_only=True):
    """One event, rendezvous event, metric point or ledger, shared by all lanes: treat it as read-only.

    Each kind is a class, whose first fields are the frame's own, so that the decoder makes records and nothing besides. What
    a record holds was decoded from bytes and cannot hold the record: the garbage collector need not look, which would stop
    every thread of the process, training included, for a millisecond at a time.

    `fields` is the kind's own payload, in this order:

    - event: source, timestamp (milliseconds, 0 = not given), metadata
    - rdzv: run_id, message, hostname, pid, node_state, master_endpoint, rank, local_id, error_trace
    - metric: value
    - ledger: a dict, the lane's own counts when its sink was closed
    """

    time_ns: int = 0  #: wall clock, nanoseconds since the epoch
    context: Context = _NOBODY
    size: int = 0  #: encoded bytes
    recovered: bool = False  #: read from the flight recorder of a process that was dead by then
    flat: bool = True  #: payload of texts and finite numbers only, as its decoder made sure; say False for any other
    memory: int = 0  #: bytes of memory that it takes; 0: nobody has weighed it
    built: Any = None

    kind: ClassVar[Kind]

    @property
    def fields(self) -> tuple[Any, ...]:
        """The kind's own payload."""
        raise NotImplementedError(f"a record is made by its kind's class, not by {type(self).__name__}")

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
        return {}

    @property
    def metric(self) -> MetricData | None:
        """The `MetricData`, or None for other kinds."""
        return self._build() if self.kind == "metric" else None

    def _build(self) -> Any:
        if self.built is None:
            msgspec.structs.force_setattr(self, "built", _BUILD[self.kind](self))
        return self.built


class MetricRecord(Record, Generic[V], frozen=True, eq=False):
    """A metric point."""

    kind: ClassVar[Kind] = "metric"
    value: V

    @property
    def fields(self) -> tuple[Any, ...]:
        """The value."""
        return (self.value,)


class EventRecord(Record, Generic[V], frozen=True, eq=False):
    """An event."""

    kind: ClassVar[Kind] = "event"
    source: V
    timestamp: V  #: milliseconds, 0 = not given
    metadata: dict[str, V]

    @property
    def fields(self) -> tuple[Any, ...]:
        """Source, timestamp and metadata."""
        return (self.source, self.timestamp, self.metadata)


class RdzvRecord(Record, frozen=True, eq=False):
    """A rendezvous event."""

    kind: ClassVar[Kind] = "rdzv"
    run_id: Any
    message: Any
    hostname: Any
    pid: Any
    node_state: Any
    master_endpoint: Any
    rank: Any
    local_id: Any
    error_trace: Any

    @property
    def fields(self) -> tuple[Any, ...]:
        """Its own arguments."""
        head = (self.run_id, self.message, self.hostname, self.pid, self.node_state)
        return (*head, self.master_endpoint, self.rank, self.local_id, self.error_trace)


class LedgerRecord(Record, frozen=True, eq=False):
    """A lane's own counts when its sink was closed."""

    kind: ClassVar[Kind] = "ledger"
    ledger: Any

    @property
    def fields(self) -> tuple[Any, ...]:
        """The counts."""
        return (self.ledger,)

    @property
    def metadata(self) -> Mapping[str, EventMetadataValue]:
        """The counts."""
        return cast("Mapping[str, EventMetadataValue]", self.ledger)


def record_of(
    kind: Kind,
    seq: int,
    time_ns: int,
    monotonic_ns: int,
    name: str,
    channel: str,
    fields: Sequence[Any],
    context: Context,
    size: int = 0,
    recovered: bool = False,
) -> Record:
    """Return a record of `kind`, whose payload nobody has looked at.

    Raises:
        LookupError, TypeError: there is no such kind, or it has more fields, or fewer.
    """
    return CLASSES[kind](
        *(seq, monotonic_ns, name, channel, *fields),
        time_ns=time_ns,
        context=context,
        size=size,
        recovered=recovered,
        flat=False,
    )


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

#: Kind -> its class.
CLASSES: dict[Kind, Callable[..., Record]] = {
    one.kind: one for one in (EventRecord, RdzvRecord, MetricRecord, LedgerRecord)
}
