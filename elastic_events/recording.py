"""`record()` and its kin, the bus they go to, and the background bus of a program without an event loop."""

import logging
import os
import signal
import sys
import traceback
from functools import cache
from types import FrameType
from typing import Any

from elastic_events.api import NodeState, RdzvEvent
from elastic_events.bus.bus import EventBus
from elastic_events.bus.handler import Handler
from elastic_events.bus.ledger import FlushResult
from elastic_events.front import front, put_metric, record, record_rdzv_event
from elastic_events.handlers import find, is_null

__all__ = (
    "construct_and_record_rdzv_event",
    "current_bus",
    "default_bus",
    "put_metric",
    "record",
    "record_rdzv_event",
    "start",
    "stop",
    "unheard",
)

#: The bus started by `start()`, or by a destination or a metric handler that needs one.
_background: dict[str, EventBus] = {}


def unheard(event: Any, destination: Any) -> None:
    """With no bus open, start one where `destination` has a handler that writes, and record `event` there."""
    handler = find(destination)
    if handler is not None and not is_null(handler):
        default_bus().record(event, destination)


def current_bus() -> EventBus | None:
    """Return the bus opened last of those still open, or None."""
    return front.last


def default_bus() -> EventBus:
    """Return the bus opened last; with none open, one in a background thread, started now and closed at exit."""
    bus = current_bus() or _started()
    if bus is None:
        bus = _claim(made := EventBus())
        if bus is made:
            bus.launch()  # it has no handler to open, so there is nothing to wait for
    return bus


def start(*handlers: Handler, handle_sigterm: bool = False, **options: Any) -> EventBus:
    """Start a bus in a background thread; `record()` and `put_metric()` go to it until `stop()` or the end of the process.

    With no handler given, those of `ELASTIC_EVENTS_SINKS` (URLs, separated by commas) are used. A second call while the
    first bus runs subscribes its handlers to that one.

    Args:
        handlers: as for `EventBus`, and `options` likewise.
        handle_sigterm: let SIGTERM end the process by `SystemExit(143)`, so that it drains. Only in the main thread.

    Raises:
        ConfigError: a handler is wrong or cannot be opened.
    """
    if not handlers:
        from elastic_events.sinks.urls import parse_sinks

        handlers = tuple(parse_sinks(os.environ.get("ELASTIC_EVENTS_SINKS", "")))
    bus = _started()
    if bus is None:
        bus = _claim(made := EventBus(*handlers, **options))
        if bus is made:
            handlers = ()
            bus.open()
    for handler in handlers:
        bus.subscribe(handler)
    if handle_sigterm:
        signal.signal(signal.SIGTERM, _end)
    return bus


def stop(deadline: float | None = None) -> FlushResult:
    """Close the bus of `start()`: deliver what is left within `deadline` seconds. Without one, do nothing."""
    bus = _started()
    return FlushResult({}) if bus is None else bus.close(deadline)


def _started() -> EventBus | None:
    bus = _background.get("bus")
    return None if bus is None or bus.stats().state == "closed" else bus


def _claim(bus: EventBus) -> EventBus:
    """Make `bus` the one in the background, unless another thread was faster; return the one that is."""
    # Single operations on a dict: a lock could be held by what a signal handler interrupted.
    known = _background.setdefault("bus", bus)
    if known is not bus and known.stats().state == "closed":
        _background["bus"] = known = bus
    return known


def _end(signum: int, _frame: FrameType | None) -> None:
    # Nothing but the exit happens here: anything more could deadlock with what the signal interrupted (F50).
    sys.exit(128 + signum)


def construct_and_record_rdzv_event(
    run_id: str,
    message: str,
    node_state: NodeState,
    name: str = "",
    hostname: str = "",
    pid: int | None = None,
    master_endpoint: str = "",
    local_id: int | None = None,
    rank: int | None = None,
) -> None:
    """Make a `RdzvEvent` and record it. `name` is prefixed with the caller's file; FAILED carries the active traceback.

    Returns at once where nobody would see it: no bus is open and "dynamic_rendezvous" has torch's NullHandler. The host
    name comes from the process's context: no name look-up here.
    """
    import elastic_events as package  # torch's tests patch the two names below on the package

    if front.emitter.events is None and isinstance(
        package.get_logging_handler("dynamic_rendezvous"), logging.NullHandler
    ):
        return
    caller = sys._getframe(1)  # noqa: SLF001 - inspect.stack() reads every source file on the way: 92,000 times an append
    code = caller.f_code
    package.record_rdzv_event(
        RdzvEvent(
            name=f"{os.path.basename(code.co_filename)}:{name or code.co_name}",
            run_id=run_id,
            message=message,
            hostname=hostname or _hostname(),
            pid=pid or os.getpid(),
            node_state=node_state,
            master_endpoint=master_endpoint,
            rank=rank,
            local_id=local_id,
            error_trace=traceback.format_exc() if node_state == NodeState.FAILED else "",
        )
    )


@cache
def _hostname() -> str:
    return os.uname().nodename
