"""Records as OTLP: what an event, a rendezvous, a metric point and a context are called in OpenTelemetry.

Messages and field names are those of opentelemetry-proto (logs.proto, metrics.proto, resource.proto); attribute names are
OpenTelemetry's semantic conventions where there is one, `elastic.*` otherwise.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from elastic_events.bus.context import Context
from elastic_events.bus.record import Record
from elastic_events.sinks.stored import FIELDS, strict

__all__ = ("Encoder", "is_point")

SCOPE = "elastic_events"

#: Field of a context -> attribute of the resource.
_CONTEXT = {
    "host": "host.name",
    "pid": "process.pid",
    "process": "service.instance.id",
    "run_id": "elastic.run_id",
    "rank": "elastic.rank",
    "local_rank": "elastic.local_rank",
    "world_size": "elastic.world_size",
    "node_rank": "elastic.node_rank",
    "role": "elastic.role",
    "restart": "elastic.restart",
}

# logs.proto, SeverityNumber
_INFO, _ERROR = 9, 17

_SIGNED_64 = range(-(2**63), 2**63)
_UNSIGNED_64 = range(2**64)


def is_point(record: Record) -> bool:
    """Return whether a metric's value is a number, which is all that a data point can hold."""
    return isinstance(record.fields[0], int | float) and _fits(record.fields[0])


class Encoder:
    """Makes export requests. `base` are attributes that every resource gets, from OpenTelemetry's own variables."""

    def __init__(self, base: Mapping[str, str]) -> None:
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

        self._logs_request: Callable[[], Any] = ExportLogsServiceRequest
        self._metrics_request: Callable[[], Any] = ExportMetricsServiceRequest
        self._base = {"service.name": "torchelastic", **base}

    def logs(self, records: Sequence[Record]) -> bytes:
        """Return events, rendezvous events and ledgers as log records."""
        request = self._logs_request()
        for context, group in _by_context(records):
            resource = request.resource_logs.add()
            self._resource(resource.resource, context)
            scope = resource.scope_logs.add()
            scope.scope.name = SCOPE
            for record in group:
                _log(scope.log_records.add(), record)
        data: bytes = request.SerializeToString()
        return data

    def metrics(self, records: Sequence[Record]) -> bytes:
        """Return metric points, whose values are numbers, as data points of gauges."""
        request = self._metrics_request()
        for context, group in _by_context(records):
            resource = request.resource_metrics.add()
            self._resource(resource.resource, context)
            scope = resource.scope_metrics.add()
            scope.scope.name = SCOPE
            points: dict[str, Any] = {}
            for record in group:
                gauge = points.get(record.name)
                if gauge is None:
                    metric = scope.metrics.add(name=record.name)
                    gauge = points[record.name] = metric.gauge.data_points
                # Always a double: one name's points must not change their type between 0 and 0.5.
                point = gauge.add(time_unix_nano=_unsigned(record.time_ns), as_double=float(record.fields[0]))
                _put(point.attributes.add(), "elastic.group", record.channel)
        data: bytes = request.SerializeToString()
        return data

    def _resource(self, resource: Any, context: Context) -> None:
        for key, value in self._base.items():
            _put(resource.attributes.add(), key, value)
        for field, key in _CONTEXT.items():
            value = getattr(context, field)
            if value is not None and key not in self._base:
                _put(resource.attributes.add(), key, value)


def _log(log: Any, record: Record) -> None:
    """Fill one LogRecord. The name is also an attribute: some back ends drop the field `event_name`."""
    log.observed_time_unix_nano = _unsigned(record.time_ns)
    log.time_unix_nano = log.observed_time_unix_nano
    log.event_name = record.name
    log.body.string_value = record.name
    failed = record.name.endswith((".failed", ".died"))
    ours: dict[str, Any] = {
        "event.name": record.name,
        "elastic.kind": record.kind,
        "elastic.record_id": record.id,
        "elastic.destination": record.channel,
    }
    theirs: dict[str, Any] = {}
    if record.kind == "event":
        source, timestamp, metadata = record.fields
        ours["elastic.source"] = source
        if isinstance(timestamp, int) and timestamp * 1_000_000 in _UNSIGNED_64 and timestamp:
            log.time_unix_nano = timestamp * 1_000_000
        theirs = metadata if isinstance(metadata, dict) else {"metadata": metadata}
    elif record.kind == "rdzv":
        fields = dict(zip(FIELDS["rdzv"], record.fields, strict=True))
        log.body.string_value = str(fields.pop("message"))
        ours["exception.stacktrace"] = fields.pop("error_trace") or None
        ours.update({f"elastic.rdzv.{name}": value for name, value in fields.items()})
        failed = fields["node_state"] == "FAILED"
    else:
        ours["elastic.ledger"] = record.fields[0]
    if record.recovered:
        ours["elastic.recovered"] = True
    log.severity_number, log.severity_text = (_ERROR, "ERROR") if failed else (_INFO, "INFO")
    for key, value in ours.items():
        if value is not None:
            _put(log.attributes.add(), key, value)
    for key, value in strict(theirs).items():
        _put(log.attributes.add(), f"metadata.{key}" if key in ours else key, value)


def _put(pair: Any, key: str, value: Any) -> None:
    pair.key = key
    _fill(pair.value, value)


def _fill(any_value: Any, value: Any) -> None:
    """Set an AnyValue (common.proto); None stays empty, which is how OTLP says null."""
    if isinstance(value, str):
        any_value.string_value = value
    elif isinstance(value, bool):
        any_value.bool_value = value
    elif isinstance(value, int) and value in _SIGNED_64:
        any_value.int_value = value
    elif isinstance(value, float):
        any_value.double_value = value
    elif isinstance(value, dict):
        any_value.kvlist_value.SetInParent()
        for key, item in value.items():
            _put(any_value.kvlist_value.values.add(), str(key), item)
    elif isinstance(value, list | tuple):
        any_value.array_value.SetInParent()
        for item in value:
            _fill(any_value.array_value.values.add(), item)
    elif value is not None:
        any_value.string_value = str(value)


def _by_context(records: Sequence[Record]) -> Iterable[tuple[Context, list[Record]]]:
    """Group records by who spoke; a batch has few contexts."""
    groups: dict[Context, list[Record]] = {}
    for record in records:
        groups.setdefault(record.context, []).append(record)
    return groups.items()


def _fits(value: float) -> bool:
    try:
        float(value)
    except OverflowError:
        return False
    return True


def _unsigned(nanoseconds: int) -> int:
    return min(max(nanoseconds, 0), 2**64 - 1)
