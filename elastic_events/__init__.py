"""torch.distributed.elastic's events on an async bus whose emitters never block.

The tour, in the order you are likely to need it:

- `record(event)` and `elastic_metrics.put_metric(name, value)` put a record into a bounded ring and return.
- `EventBus(*handlers)` drains the rings: `async with` in your event loop, `with` in a background thread.
  `start(*handlers)` is the same for a program without a block to put it in.
- A handler is an async function, a sink or its URL ("sqlite:///run.db"), a torch-style `MetricHandler`, a `logging.Handler`.
- `bus.stats()` is the ledger: for every lane, accepted = delivered + failed + dropped + filtered + pending.
- `EventBus(recorder=DIR)`, or ELASTIC_EVENTS_DIR in the environment, keeps the rings in a file that outlives the process;
  `collect(DIR)` in the launcher delivers what the workers wrote, also those that were killed.
- `step(n)`, `checkpoint(n)` and `restore(n)` mark a training loop, for `elastic-events goodput`.
- `elastic_events.testing` captures records without a sleep.
"""

from typing import TYPE_CHECKING, Any

from elastic_events.api import Event, EventMetadataValue, EventSource, NodeState, RdzvEvent
from elastic_events.bus.bus import EventBus
from elastic_events.bus.context import Context
from elastic_events.bus.errors import (
    BusClosed,
    ConfigError,
    ElasticEventsError,
    InputError,
    MetadataError,
    MissingExtra,
    PermanentError,
)
from elastic_events.bus.handler import Sink
from elastic_events.bus.lane import Lane
from elastic_events.bus.record import Record
from elastic_events.bus.retry import Retry
from elastic_events.bus.stats import BusStats, FlushResult, LaneStats
from elastic_events.handlers import _events_loggers, _get_or_create_logger, get_logging_handler
from elastic_events.recording import (
    construct_and_record_rdzv_event,
    current_bus,
    record,
    record_rdzv_event,
    start,
    stop,
)
from elastic_events.training import checkpoint, restore, step

if TYPE_CHECKING:
    from elastic_events.recorder import collect

__all__ = (
    "BusClosed",
    "BusStats",
    "ConfigError",
    "Context",
    "ElasticEventsError",
    "Event",
    "EventBus",
    "EventMetadataValue",
    "EventSource",
    "FlushResult",
    "InputError",
    "Lane",
    "LaneStats",
    "MetadataError",
    "MissingExtra",
    "NodeState",
    "PermanentError",
    "RdzvEvent",
    "Record",
    "Retry",
    "Sink",
    "_events_loggers",
    "_get_or_create_logger",
    "checkpoint",
    "collect",
    "construct_and_record_rdzv_event",
    "current_bus",
    "get_logging_handler",
    "record",
    "record_rdzv_event",
    "restore",
    "start",
    "step",
    "stop",
)


def __getattr__(name: str) -> Any:
    # The collector is for launchers; a worker that only records does not pay for importing it.
    if name == "collect":
        from elastic_events.recorder import collect

        return collect
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
