"""Metrics as in torch.distributed.elastic.metrics.api, delivered by the event bus."""

import abc
import sys
import time
import warnings
from bisect import bisect_right
from collections.abc import Callable
from functools import partial
from typing import Any

from elastic_events.bus.bus import EventBus
from elastic_events.bus.record import MetricData, Record
from elastic_events.recording import current_bus, default_bus, on_open, put_metric
from elastic_metrics.profiling import get_metric_name, prof, profile_with

__all__ = (
    "ConsoleMetricHandler",
    "MetricData",
    "MetricHandler",
    "MetricStream",
    "MetricsConfig",
    "NullMetricHandler",
    "configure",
    "getStream",
    "get_elapsed_time_ms",
    "prof",
    "profile",
    "publish_metric",
    "put_metric",
)

_get_metric_name = get_metric_name


class MetricsConfig:
    """Parameters of a deployment's own handler."""

    __slots__ = ("params",)

    def __init__(self, params: dict[str, str] | None = None) -> None:
        self.params = params if params is not None else {}


class MetricHandler(abc.ABC):
    """Takes metric points, one call at a time, in a thread of its own. One that raises is counted and called again."""

    @abc.abstractmethod
    def emit(self, metric_data: MetricData) -> None:
        """Take one point."""


class ConsoleMetricHandler(MetricHandler):
    """Prints `[timestamp][group]: name=value` to stdout."""

    def emit(self, metric_data: MetricData) -> None:
        """Print one point."""
        point = metric_data
        # One write a line: print() makes two, and another thread's line would fall between.
        sys.stdout.write(f"[{point.timestamp}][{point.group_name}]: {point.name}={point.value}\n")


class NullMetricHandler(MetricHandler):
    """Discards."""

    def emit(self, metric_data: MetricData) -> None:
        """Discard one point."""


class MetricStream:
    """A group and the handler of its points. `add_value` calls the handler at once, as in torch."""

    def __init__(self, group_name: str | None, handler: MetricHandler) -> None:
        self.group_name = group_name
        self.handler = handler

    def add_value(self, metric_name: str, metric_value: Any) -> None:
        """Hand one point to the handler, in this thread."""
        self.handler.emit(MetricData(time.time(), self.group_name, metric_name, metric_value))  # type: ignore[arg-type]


class _BusStream(MetricStream):
    """What `getStream` gives: its points go the way of `put_metric`."""

    def add_value(self, metric_name: str, metric_value: Any) -> None:
        put_metric(metric_name, metric_value, self.group_name)


class _Routes:
    """Which handler was in force for which point: delivery comes later than `configure`.

    `tables` are the configurations since the bus opened, `since` the metric sequence each begins with.
    """

    def __init__(self, bus: EventBus, table: dict[str | None, MetricHandler]) -> None:
        self.bus = bus
        self.since = [0 if bus.stats().state == "new" else bus.metric_head()]
        self.tables = [table]
        self.handlers: list[MetricHandler] = []
        self._add_lanes(table)

    def change(self, table: dict[str | None, MetricHandler]) -> None:
        """Let `table` hold from the next point on."""
        self.since.append(self.bus.metric_head())
        self.tables.append(table)
        self._add_lanes(table)

    def find(self, record: Record) -> MetricHandler | None:
        """Return the handler that was in force when `record` was put."""
        table = self.tables[max(bisect_right(self.since, record.seq) - 1, 0)]
        return table.get(record.channel, table.get(None))

    def _is_for(self, handler: MetricHandler, record: Record) -> bool:
        return self.find(record) is handler

    def _add_lanes(self, table: dict[str | None, MetricHandler]) -> None:
        for handler in table.values():
            if not isinstance(handler, NullMetricHandler) and not any(handler is known for known in self.handlers):
                self.handlers.append(handler)
                self.bus.subscribe(handler, events=False, where=partial(self._is_for, handler))


_metrics_map: dict[str | None, MetricHandler] = {}
_default_metrics_handler: MetricHandler = NullMetricHandler()
_routes: _Routes | None = None


def configure(handler: MetricHandler, group: str | None = None) -> None:
    """Let `handler` have the points of `group`, or of all groups without a handler of their own; the last call wins.

    Points put before the call still go to the handler of that time. With no bus open, one starts in a background thread.
    """
    global _default_metrics_handler  # noqa: PLW0603 - torch's own name, which programs read
    if group is None:
        _default_metrics_handler = handler
    else:
        _metrics_map[group] = handler
    if not isinstance(handler, NullMetricHandler) or current_bus() is not None:
        _route(default_bus())


def _route(bus: EventBus) -> None:
    global _routes  # noqa: PLW0603 - one table a process, as the handlers
    table: dict[str | None, MetricHandler] = {**_metrics_map, None: _default_metrics_handler}
    if _routes is not None and _routes.bus is bus:
        _routes.change(table)
    elif any(not isinstance(handler, NullMetricHandler) for handler in table.values()):
        _routes = _Routes(bus, table)


on_open(_route)


def getStream(group: str | None) -> MetricStream:
    """Return the stream of `group`, with the group's handler or the default."""
    handler = _metrics_map.get(group, _default_metrics_handler) if group is not None else _default_metrics_handler
    return _BusStream(group, handler)


def publish_metric(metric_group: str, metric_name: str, metric_value: Any) -> None:
    """Put one point. Deprecated, as in torch: use `put_metric`."""
    warnings.warn("publish_metric is deprecated, use put_metric instead", FutureWarning, stacklevel=2)
    getStream(metric_group).add_value(metric_name, metric_value)


def profile(group: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate as `prof` does, under the function's bare name. Deprecated, as in torch: use `prof`."""
    warnings.warn("profile is deprecated, use prof instead", FutureWarning, stacklevel=2)
    return lambda function: profile_with(function, function.__name__, group)


def get_elapsed_time_ms(start_time_in_seconds: float) -> int:
    """Return the milliseconds since `start_time_in_seconds` of the wall clock, truncated."""
    return int((time.time() - start_time_in_seconds) * 1000)
