"""`record()` and its kin, the bus they go to, and the background bus of a program without an event loop."""

import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any

from elastic_events.api import NodeState, RdzvEvent
from elastic_events.bus.bus import EventBus, observers, recorders
from elastic_events.bus.context import read_context
from elastic_events.bus.emit import Emitter
from elastic_events.bus.errors import ConfigError
from elastic_events.bus.handler import Handler
from elastic_events.bus.ledger import FlushResult
from elastic_events.bus.process import Armed, after_fork_in_child
from elastic_events.bus.redact import Redactor
from elastic_events.handlers import find

__all__ = (
    "construct_and_record_rdzv_event",
    "current_bus",
    "default_bus",
    "on_open",
    "put_metric",
    "record",
    "record_rdzv_event",
    "start",
    "stop",
)

_front = Emitter(None, None, Redactor())

#: The hot path: bound methods of the one emitter that points at the bus opened last.
record = _front.record
put_metric = _front.put_metric
record_rdzv_event = _front.record_rdzv_event


class _Current:
    """The open buses, in the order they were opened; module functions go to the last."""

    def __init__(self) -> None:
        self.buses: list[EventBus] = []
        self.callbacks: list[Callable[[EventBus], object]] = []
        self.background: EventBus | None = None  # started by start(), or by a destination that needs one
        self.own_rings: tuple[Any, Any] | None = None  # ELASTIC_EVENTS_DIR without a bus
        self.tried = False

    def opened(self, bus: EventBus) -> None:
        self.buses = [*(other for other in self.buses if other is not bus), bus]
        self.point()
        for callback in self.callbacks:
            callback(bus)

    def closed(self, bus: EventBus) -> None:
        self.buses = [other for other in self.buses if other is not bus]
        if bus is self.background:
            self.background = None
        self.point()

    def destination(self, bus: EventBus, name: str, seq: int) -> None:
        """Give torch's logging handler of that name a lane, when the first event for it comes by."""
        handler = find(name)
        if handler is None:
            bus.report(
                f"destination {name!r}",
                ConfigError("no logging handler has that name; the bus's own handlers got the event"),
            )
        elif not isinstance(handler, logging.NullHandler):
            bus.subscribe(
                handler, name=f"log:{name}", metrics=False, where=lambda record: record.channel == name, since=seq
            )

    def unheard(self, event: Any, destination: Any) -> None:
        """With no bus open, start one where the destination has a handler that writes."""
        handler = find(destination)
        if handler is not None and not isinstance(handler, logging.NullHandler) and _front.events is None:
            bus = self.background = EventBus()
            bus.launch()
            bus.record(event, destination)

    def point(self) -> None:
        """Point the module functions at the bus opened last, or at the recorder of the environment, or at nothing."""
        if self.buses:
            emitter = self.buses[-1].emitter
            _front.strict, _front.redactor, _front.vetted = emitter.strict, emitter.redactor, emitter.vetted
            _front.events, _front.metrics = emitter.events, emitter.metrics
        elif self.own_rings is not None:
            _front.events, _front.metrics = (ring.pipe for ring in self.own_rings)
        elif not self.tried and os.environ.get("ELASTIC_EVENTS_DIR"):
            pipes = (Armed(self.open_recorder, partial(self.own_pipe, ring)).pipe for ring in range(2))
            _front.events, _front.metrics = pipes
        else:
            _front.events = _front.metrics = None

    def own_pipe(self, ring: int) -> Any:
        return None if self.own_rings is None else self.own_rings[ring].pipe

    def open_recorder(self) -> None:
        """Write to a flight recorder of this process's own; where that fails, warn once and go on without."""
        if self.tried:
            return
        self.tried = True
        try:
            self.own_rings = open_recorder(Path(os.environ["ELASTIC_EVENTS_DIR"]), read_context(), None)
        except (OSError, ConfigError) as error:
            warnings.warn(
                f"running without the flight recorder of ELASTIC_EVENTS_DIR: {error}", RuntimeWarning, stacklevel=3
            )
        self.point()

    def after_fork(self) -> None:
        """The child has no bus of an event loop, and a recorder file of its own."""
        self.own_rings = None
        self.tried = False
        self.buses = [bus for bus in self.buses if bus.stats().state == "forked"]
        self.point()


def open_recorder(directory: Path, context: Any, capacity: int | None) -> tuple[Any, Any]:
    """Make this process's rings in a file in `directory`."""
    from elastic_events.recorder.writer import open_rings

    return open_rings(directory, context, capacity)


_current = _Current()
observers.append(_current)
recorders.append(open_recorder)
after_fork_in_child(lambda: [_current])
_front.unheard = _current.unheard
_current.point()


def current_bus() -> EventBus | None:
    """Return the bus opened last of those still open, or None."""
    return _current.buses[-1] if _current.buses else None


def default_bus() -> EventBus:
    """Return the bus opened last; with none open, one in a background thread, started now and closed at exit."""
    bus = current_bus()
    if bus is None:
        bus = _current.background = EventBus()
        bus.launch()  # it has no handler to open, so there is nothing to wait for
    return bus


def on_open(callback: Callable[[EventBus], object]) -> None:
    """Call `callback(bus)` whenever a bus opens, and now for the one that is open."""
    _current.callbacks.append(callback)
    bus = current_bus()
    if bus is not None:
        callback(bus)


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
    bus = _current.background
    if bus is None:
        bus = EventBus(*handlers, **options)
        bus.open()
        _current.background = bus
    else:
        for handler in handlers:
            bus.subscribe(handler)
    if handle_sigterm:
        signal.signal(signal.SIGTERM, _end)
    return bus


def stop(deadline: float | None = None) -> FlushResult:
    """Close the bus of `start()`: deliver what is left within `deadline` seconds. Without one, do nothing."""
    bus = _current.background
    return FlushResult({}) if bus is None else bus.close(deadline)


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

    if _front.events is None and isinstance(package.get_logging_handler("dynamic_rendezvous"), logging.NullHandler):
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
