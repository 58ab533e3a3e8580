"""Logging handlers by destination, as in torch.distributed.elastic.events.handlers, and handlers of others as sinks."""

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

from elastic_events import front
from elastic_events.bus.errors import PermanentError
from elastic_events.bus.handler import Sink
from elastic_events.bus.record import Record
from elastic_events.sinks.blocking import BlockingSink

__all__ = ("as_sink", "find", "get_logging_handler", "is_null")


class _ConsoleHandler(logging.StreamHandler[Any]):
    """stderr, and what torch's documentation shows: `get_logging_handler("console").info(event)`."""

    def info(self, event: Any) -> None:
        """Record `event` for this handler's destination."""
        front.record(event, _destination(self))


class _NullHandler(logging.NullHandler):
    """Writes nothing by itself; `info` records."""

    info = _ConsoleHandler.info


_log_handlers: dict[str, logging.Handler] = {
    "console": _ConsoleHandler(sys.stderr),
    "dynamic_rendezvous": _NullHandler(),
    "null": _NullHandler(),
}

_events_loggers: dict[str, logging.Logger] = {}


def get_logging_handler(destination: str = "null") -> logging.Handler:
    """Return the logging handler of `destination`; put your own into `_log_handlers` to add one, as with torch.

    Raises:
        KeyError: there is none of that name.
    """
    return _log_handlers[destination]


def find(destination: object) -> logging.Handler | None:
    """Return the logging handler of `destination`, or None. Never raises."""
    return _log_handlers.get(destination) if isinstance(destination, str) else None


def is_null(handler: logging.Handler) -> bool:
    """Return whether `handler` writes nothing."""
    return isinstance(handler, logging.NullHandler)


def _destination(handler: object) -> str:
    return next((name for name, known in list(_log_handlers.items()) if known is handler), "console")


def _get_or_create_logger(destination: str = "null") -> logging.Logger:
    """Return torch's logger of that destination. Kept for code that reaches for it; recording does not go through it."""
    if destination not in _events_loggers:
        import elastic_events as package  # torch's tests patch get_logging_handler there

        logger = logging.getLogger(f"torchelastic-events-{destination}")
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(package.get_logging_handler(destination))
        _events_loggers[destination] = logger
    return _events_loggers[destination]


class _HandlerSink(BlockingSink):
    """A synchronous handler as a sink: its calls run in a thread that its lane owns, and opening it is its maker's."""

    def __init__(self, handler: Any) -> None:
        super().__init__()
        self.handler = handler
        self.name: str = type(handler).__name__
        self.thread_name: str = f"elastic-events {self.name}"

    def open_now(self) -> None:
        """Nothing to open."""

    def close_now(self) -> None:
        """Nothing to close."""

    def abandon(self) -> None:
        """Nothing that is the parent's alone."""


class LoggingSink(_HandlerSink):
    """A `logging.Handler` as a sink: gets events as torch's loggers pass them, one LogRecord with the event's JSON each.

    Its own level, filters and lock apply. Delivered means that its `emit` returned without an error.
    """

    def write_now(self, records: Sequence[Record]) -> None:
        """Log the events, one by one."""
        # A bus's own ledger is no event of torch's.
        _each(records, ("event", "rdzv"), self._log)

    def _log(self, record: Record) -> None:
        entry = logging.LogRecord(
            *(f"torchelastic-events-{record.channel}", logging.INFO, "", 0, _text(record.event), None, None),
            func=record.name,
        )
        entry.created, entry.msecs = record.time_ns / 1e9, record.time_ns // 1_000_000 % 1000
        entry.elastic_record = record
        if entry.levelno >= self.handler.level:
            self._emit(entry)

    def _emit(self, entry: logging.LogRecord) -> None:
        """Let the handler have `entry`; raise what its `emit` raises."""
        failure: list[BaseException] = []

        def keep(_entry: logging.LogRecord) -> None:
            failure.append(sys.exception() or RuntimeError("the handler called handleError"))

        # The standard handlers catch their own errors and pass them to handleError, which prints: the ledger would not know.
        # Under the handler's lock, so that errors of the program's own use of it, or of another lane's, stay theirs.
        self.handler.acquire()
        try:
            own = vars(self.handler).get("handleError")
            self.handler.handleError = keep
            try:
                self.handler.handle(entry)
            finally:
                if own is None:
                    del self.handler.handleError
                else:
                    self.handler.handleError = own
        finally:
            self.handler.release()
        if failure:
            raise failure[0]


class MetricSink(_HandlerSink):
    """A torch-style `MetricHandler` as a sink: its `emit` gets each metric point as `MetricData`; events pass it by."""

    def write_now(self, records: Sequence[Record]) -> None:
        """Emit the points, one by one."""
        _each(records, ("metric",), lambda record: self.handler.emit(record.metric))


def _each(records: Sequence[Record], kinds: tuple[str, ...], call: Callable[[Record], object]) -> None:
    """Call `call` with each record of `kinds`; one that raises keeps none of the others back.

    Raises:
        PermanentError: some of several failed; it names them. A single record's own error is raised as it is.
    """
    failed: list[tuple[Record, Exception]] = []
    for record in records:
        if record.kind in kinds:
            try:
                call(record)
            except Exception as error:
                if len(records) == 1:
                    raise
                failed.append((record, error))
    if failed:
        first = failed[0][1]
        reason = f"{type(first).__name__}: {first}"
        raise PermanentError(reason, rejected=[record for record, _ in failed]) from first


def _text(event: Any) -> str:
    try:
        return str(event.serialize())
    except (TypeError, ValueError, RecursionError):
        return repr(event)


def as_sink(handler: Any) -> Sink | None:
    """Return a synchronous handler as a sink: a `logging.Handler`, or a torch-style `MetricHandler`; None for others."""
    if isinstance(handler, logging.Handler):
        return LoggingSink(handler)
    if callable(getattr(handler, "emit", None)):
        return MetricSink(handler)
    return None
