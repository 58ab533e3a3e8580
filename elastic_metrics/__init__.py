"""torch.distributed.elastic.metrics on the event bus of `elastic_events`.

`put_metric(name, value)` puts a point into a bounded ring and returns; `configure(handler)` names who gets it, in a thread
of the handler's own. `@prof` counts and times functions, coroutines and generators.
"""

from elastic_metrics.api import (
    ConsoleMetricHandler,
    MetricData,
    MetricHandler,
    MetricsConfig,
    MetricStream,
    NullMetricHandler,
    configure,
    get_elapsed_time_ms,
    getStream,
    prof,
    profile,
    publish_metric,
    put_metric,
)

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
    "initialize_metrics",
    "prof",
    "profile",
    "publish_metric",
    "put_metric",
)


def initialize_metrics(cfg: MetricsConfig | None = None) -> None:
    """Do nothing, as in torch: a hook for deployments to replace."""
