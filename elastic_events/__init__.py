"""torch.distributed.elastic's events on an async bus whose emitters never block.

The tour, in the order you are likely to need it:

- `record(event)` and `elastic_metrics.put_metric(name, value)` put a record into a bounded ring and return.
- `EventBus(*handlers)` drains the rings: `async with` in your event loop, `with` in a background thread.
  `start(*handlers)` is the same for a program without a block to put it in.
- A handler is an async function, a sink or its URL ("sqlite:///run.db"), a torch-style `MetricHandler`, a `logging.Handler`.
- `bus.stats()` is the ledger: for every lane, accepted = delivered + failed + dropped + filtered + pending.
- `EventBus(recorder=DIR)`, or ELASTIC_EVENTS_DIR in the environment, keeps the rings in a file that outlives the process;
  `bus.collect(DIR)` in the launcher delivers what the workers wrote, also those that were killed.
- `step(n)`, `checkpoint(n)` and `restore(n)` mark a training loop, for `elastic-events goodput`.
- `elastic_events.testing` captures records without a sleep.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elastic_events.api import Event, EventMetadataValue, EventSource, NodeState, RdzvEvent
    from elastic_events.bus.bus import EventBus
    from elastic_events.bus.context import Context
    from elastic_events.bus.errors import (
        BusClosed,
        ConfigError,
        ElasticEventsError,
        HandlerFailed,
        InputError,
        MetadataError,
        MissingExtra,
        PermanentError,
        TransientError,
        Undelivered,
        WouldDeadlock,
    )
    from elastic_events.bus.handler import Sink
    from elastic_events.bus.ledger import BusStats, FlushResult, LaneStats
    from elastic_events.bus.record import Record
    from elastic_events.bus.retry import Retry
    from elastic_events.bus.subscribed import Lane
    from elastic_events.front import record, record_rdzv_event
    from elastic_events.handlers import _events_loggers, _get_or_create_logger, get_logging_handler
    from elastic_events.recording import construct_and_record_rdzv_event, current_bus, start, stop
    from elastic_events.training import checkpoint, restore, step

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
    "HandlerFailed",
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
    "TransientError",
    "Undelivered",
    "WouldDeadlock",
    "_events_loggers",
    "_get_or_create_logger",
    "checkpoint",
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

#: Module -> its names here. Loaded together with the first one that is asked for, and not before: torch imports this
#: package in every process that imports its rendezvous, to find the plug-in, and most of those processes want nothing.
_TO_RECORD = {
    "elastic_events.api": ("Event", "EventMetadataValue", "EventSource", "NodeState", "RdzvEvent"),
    "elastic_events.front": ("record", "record_rdzv_event"),
    "elastic_events.training": ("checkpoint", "restore", "step"),
}

#: The rest: what a process that only records does not pay for.
_TO_DELIVER = {
    "elastic_events.bus.bus": ("EventBus",),
    "elastic_events.bus.context": ("Context",),
    "elastic_events.bus.errors": (
        "BusClosed",
        "ConfigError",
        "ElasticEventsError",
        "HandlerFailed",
        "InputError",
        "MetadataError",
        "MissingExtra",
        "PermanentError",
        "TransientError",
        "Undelivered",
        "WouldDeadlock",
    ),
    "elastic_events.bus.handler": ("Sink",),
    "elastic_events.bus.subscribed": ("Lane",),
    "elastic_events.bus.record": ("Record",),
    "elastic_events.bus.retry": ("Retry",),
    "elastic_events.bus.ledger": ("BusStats", "FlushResult", "LaneStats"),
    "elastic_events.handlers": ("_events_loggers", "_get_or_create_logger", "get_logging_handler"),
    "elastic_events.recording": ("construct_and_record_rdzv_event", "current_bus", "start", "stop"),
}

_SUBMODULES = frozenset({"api", "bus", "front", "handlers", "recording", "testing", "training"})

if not TYPE_CHECKING:  # a type checker must still find a name that is not here

    def __getattr__(name: str) -> Any:
        if name in _SUBMODULES:
            return import_module(f"elastic_events.{name}")
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        # Rebinding a name that a test has patched would undo the patch.
        light = any(name in names for names in _TO_RECORD.values())
        for module, names in (_TO_RECORD if light else _TO_DELIVER).items():
            loaded = import_module(module)
            for public in names:
                globals().setdefault(public, getattr(loaded, public))
        return globals()[name]

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


def _lazily(package: str, homes: dict[str, str]) -> tuple[Any, Any]:
    """Return `__getattr__` and `__dir__` of a package whose names are in modules that are imported when one is asked for.

    It is here since whoever imports a package of ours has imported this one: most want nothing more.
    """
    names = vars(sys.modules[package])

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = names[name] = getattr(import_module(f"{package}.{homes[name]}"), name)
        return value

    return get, lambda: sorted({*names, *homes})
