"""`record()` and its kin, the bus they go to, and the background bus of a program without an event loop."""

import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from elastic_events.api import NodeState, RdzvEvent
from elastic_events.bus.bus import EventBus
from elastic_events.bus.context import Context, read_context
from elastic_events.bus.errors import BusClosed, ConfigError, WouldDeadlock
from elastic_events.bus.handler import Handler
from elastic_events.bus.ledger import FlushResult
from elastic_events.bus.subscription import check_url
from elastic_events.front import front, put_metric, record, record_rdzv_event
from elastic_events.handlers import find, is_null

if TYPE_CHECKING:
    from elastic_events.recorder.link import Link

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

#: The sinks by URL that such a bus has, and by which call: a cell of a notebook that is run again must not write
#: everything twice.
_urls: WeakKeyDictionary[EventBus, dict[str, object]] = WeakKeyDictionary()


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
            bus._open_soon()  # noqa: SLF001 - it has no handler to open, so there is nothing to wait for
    return bus


def start(
    *handlers: Handler,
    drain: Literal["process", "thread"] | None = None,
    handle_sigterm: bool = False,
    **options: Any,
) -> EventBus:
    """Start a bus; `record()` and `put_metric()` go to it until `stop()` or the end of the process.

    Where all handlers are URLs, a collector process drains it: nothing of ours runs in this one but the emit, and what was
    recorded is delivered however this process ends. One collector serves all processes of a run on this host: this one, its
    children and programs, and whoever else starts with the same `ELASTIC_EVENTS_DIR`. Where that cannot be had (a frozen
    application, no directory for recorders) a background thread drains, with one warning; so it does for Python handlers.

    With no handler given, those of `ELASTIC_EVENTS_SINKS` (URLs, separated by commas) are used. A second call while the
    first bus runs subscribes its handlers to that one, but for the URLs that it has already.

    Args:
        handlers: as for `EventBus`, and `options` likewise.
        drain: "process" or "thread"; by default as above.
        handle_sigterm: let SIGTERM end the process by `SystemExit(143)`, so that it drains. Only in the main thread.

    Raises:
        ConfigError: a handler is wrong, or cannot be opened in the thread.
    """
    if not handlers:
        from elastic_events.sinks.urls import parse_sinks

        handlers = tuple(parse_sinks(os.environ.get("ELASTIC_EVENTS_SINKS", "")))
    bus = _started()
    if bus is not None and bus.stats().state == "closing":  # another thread stops it: what it holds it lets go first
        with suppress(WouldDeadlock):  # in a handler of its own, which it waits for
            bus.close()
        bus = None
    if bus is None:
        made, link = _make(handlers, drain, options)
        _urls[made] = dict.fromkeys(_as_asked(handlers))  # before another thread can find it
        bus = _claim(made)
        if bus is made:
            handlers = ()
            if link is not None:
                link.join_children()
            bus.open()
        elif link is not None:  # another thread was faster
            link.abandon()
    try:
        for handler in handlers:
            _join(bus, handler)
    except BusClosed:  # another thread has stopped it meanwhile
        return start(*handlers, drain=drain, handle_sigterm=handle_sigterm, **options)
    if handle_sigterm:
        signal.signal(signal.SIGTERM, _end)
    return bus


def _join(bus: EventBus, handler: Handler) -> None:
    """Subscribe `handler`, unless it is a URL that the bus has."""
    known, call = _urls.setdefault(bus, {}), object()
    fresh = [url for url in _as_asked([handler]) if known.setdefault(url, call) is call]
    if fresh or not isinstance(handler, str) or not bus.lanes:  # a collector knows by itself what it was asked for
        try:
            bus.subscribe(handler)
        except BaseException:
            for url in fresh:
                known.pop(url, None)
            raise


def _as_asked(handlers: Sequence[Handler]) -> set[str]:
    """Return the URLs among `handlers`, each as it is from every directory."""
    found = set()
    for url in handlers:
        if isinstance(url, str):
            from elastic_events.sinks.urls import absolute

            try:
                found.add(absolute(url))
            except ValueError:  # it is told as the mistake that it is where it is opened
                found.add(url)
    return found


def stop(timeout: float | None = None) -> FlushResult:
    """Close the bus of `start()`: deliver what is left within `timeout` seconds. Without one, do nothing."""
    bus = _started()
    return FlushResult({}) if bus is None else bus.close(timeout)


#: Options of a bus that only a drain in this process can serve.
_IN_PROCESS = frozenset({"clock", "interval", "report_every", "wall_clock"})


def _make(handlers: Sequence[Handler], drain: str | None, options: dict[str, Any]) -> "tuple[EventBus, Link | None]":
    """Return a bus for `handlers`, not yet open, and its link to a collector process where one drains it."""
    from elastic_events.recorder.link import CollectedByLoop, Link

    urls = [handler for handler in handlers if isinstance(handler, str)]
    takes = len(urls) == len(handlers) > 0 and all(map(Link.takes, urls))
    remote = takes and not _IN_PROCESS.intersection(options) and options.get("recorder") is not False
    if drain not in (None, "process", "thread"):
        raise ConfigError(f"drain is 'process' or 'thread', not {drain!r}")
    if drain == "process" and not remote:
        raise ConfigError(
            "a collector process takes sinks by URL, but not console:, and none of interval, report_every and clock: "
            "leave out drain='process'"
        )
    if remote and drain != "thread":
        for url in urls:
            check_url(url)
        try:
            return _linked(urls, **options)
        except CollectedByLoop:
            pass  # the launcher gets what is recorded; our own sinks are served here
        except (ConfigError, OSError) as error:
            warnings.warn(f"drained by a thread of this process: {error}", RuntimeWarning, stacklevel=3)
            options["recorder"] = False
    return EventBus(*handlers, **options), None


def _linked(
    urls: Sequence[str],
    *,
    context: Context | None = None,
    recorder: str | os.PathLike[str] | None = None,
    capacity: int | None = None,
    **options: Any,
) -> "tuple[EventBus, Link]":
    """Return a bus, not yet open, that a collector process drains into the sinks of `urls`.

    Raises:
        ConfigError: no process can be started from here, or no directory can be used.
        CollectedByLoop: the directory is collected by its launcher's event loop.
        OSError: the disk is full, or worse.
    """
    from elastic_events.recorder.link import Link, recorder_directory

    context = context or read_context()
    named = recorder or os.environ.get("ELASTIC_EVENTS_DIR")
    directory = Path(named) if named else recorder_directory(context)
    link = Link(directory, private=not named, capacity=capacity)
    rings = link.open(context, urls)
    try:
        return EventBus(context=context, rings=rings, elsewhere=link, **options), link
    except BaseException:
        link.abandon()
        raise


def _started() -> EventBus | None:
    bus = _background.get("bus")
    return None if bus is None or bus.stats().state == "closed" else bus


def _claim(bus: EventBus) -> EventBus:
    """Make `bus` the one in the background, unless another thread was faster; return the one that is."""
    # Single operations on a dict: a lock could be held by what a signal handler interrupted.
    known = _background.setdefault("bus", bus)
    if known is not bus and known.stats().state in ("closing", "closed"):
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
