"""Metrics as in torch.distributed.elastic.metrics.api, delivered by the event bus."""

import abc
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, TypeVar, overload

from elastic_events.bus.record import MetricData
from elastic_events.front import front, put_metric
from elastic_metrics.profiling import get_metric_name, profile_with
from elastic_metrics.routing import Routing

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

F = TypeVar("F", bound=Callable[..., Any])

_get_metric_name = get_metric_name


class MetricsConfig:
    """Parameters of a deployment's own handler."""

    __slots__ = ("params",)

    def __init__(self, params: dict[str, str] | None = None) -> None:
        self.params: dict[str, str] = params if params is not None else {}


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
    """What `getStream` gives: its points go the way of `put_metric`, unless somebody gave it another handler."""

    def __init__(self, group_name: str | None, handler: MetricHandler) -> None:
        super().__init__(group_name, handler)
        self._given = handler

    def add_value(self, metric_name: str, metric_value: Any) -> None:
        if self.handler is self._given:
            put_metric(metric_name, metric_value, self.group_name)
        else:
            super().add_value(metric_name, metric_value)


_metrics_map: dict[str | None, MetricHandler] = {}
_default_metrics_handler: MetricHandler = NullMetricHandler()


def configure(handler: MetricHandler, group: str | None = None) -> None:
    """Let `handler` have the points of `group`, or of all groups without a handler of their own; the last call wins.

    Points put before the call still go to the handler of that time. With no bus open, one starts in a background thread.

    Raises:
        ConfigError: the handler is none, and why; those of before stay.
    """
    with _routing.lock:  # one at a time: what another thread configures is neither met half nor undone
        undo = _install(handler, group)
        if isinstance(handler, NullMetricHandler):
            _routing.changed(None)
            return
        from elastic_events.recording import default_bus  # a process that only puts does not pay for it

        try:
            _routing.changed(default_bus())
        except BaseException:  # or each bus that opens would meet it again
            undo()
            raise


def _install(handler: MetricHandler, group: str | None) -> Callable[[], object]:
    """Put `handler` into its place; return what puts the one of before there again."""
    global _default_metrics_handler
    if group is None:
        before, _default_metrics_handler = _default_metrics_handler, handler
        return lambda: _install(before, None)
    if group not in _metrics_map:
        _metrics_map[group] = handler
        return lambda: _metrics_map.pop(group, None)
    known, _metrics_map[group] = _metrics_map[group], handler
    return lambda: _install(known, group)


def _table() -> dict[str | None, Any]:
    table: dict[str | None, Any] = {**_metrics_map, None: _default_metrics_handler}
    return {group: None if isinstance(handler, NullMetricHandler) else handler for group, handler in table.items()}


_routing = Routing(_table)
front.on_open(_routing.opened)


def getStream(group: str | None) -> MetricStream:
    """Return the stream of `group`, with the group's handler or the default."""
    handler = _metrics_map.get(group, _default_metrics_handler) if group is not None else _default_metrics_handler
    return _BusStream(group, handler)


def publish_metric(metric_group: str, metric_name: str, metric_value: Any) -> None:
    """Put one point. Deprecated, as in torch: use `put_metric`."""
    warnings.warn("publish_metric is deprecated, use put_metric instead", FutureWarning, stacklevel=2)
    getStream(metric_group).add_value(metric_name, metric_value)


# What torch's own decorator leaves for tools to read.
publish_metric.__deprecated__ = "Use `put_metric` instead"  # type: ignore[attr-defined]


@overload
def prof(fn: F, group: str = ...) -> F: ...
@overload
def prof(fn: None = ..., group: str = ...) -> Callable[[F], F]: ...
def prof(fn: Callable[..., Any] | None = None, group: str = "torchelastic") -> Any:
    """Publish `{name}.success` or `.failure` (1) and `{name}.duration.ms` for every call of the decorated function.

    Coroutines, generators and async generators are measured from their first step to their end, by a monotonic clock;
    one that is cancelled, closed early or left by Ctrl-C or `SystemExit` has a duration only. A handler that fails never
    changes what the function returns or raises. The name is `module.function`, or the qualified name of a method.
    """
    if fn is None:
        return lambda function: prof(function, group)
    return profile_with(fn, None, group, _publish)


def profile(group: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate as `prof` does, under the function's bare name. Deprecated, as in torch: use `prof`."""
    warnings.warn("profile is deprecated, use prof instead", FutureWarning, stacklevel=2)
    return lambda function: profile_with(function, function.__name__, group, _publish)


def _publish(group: str | None, name: str, value: int) -> None:
    # Looked up at each call: programs and torch's tests replace it.
    getStream(group).add_value(name, value)


def get_elapsed_time_ms(start_time_in_seconds: float) -> int:
    """Return the milliseconds since `start_time_in_seconds` of the wall clock, truncated."""
    return int((time.time() - start_time_in_seconds) * 1000)
