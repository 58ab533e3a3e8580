"""What a lane can deliver to, and how each shape of handler becomes the one that a lane knows: a sink."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from elastic_events.bus.errors import ConfigError
from elastic_events.bus.record import Record

__all__ = ("BATCH", "Handler", "Sink", "adapt", "adapters", "stages")

#: Records of a call to a sink, at most, unless its subscription says otherwise.
BATCH = 1024


@runtime_checkable
class Sink(Protocol):
    """A handler that writes somewhere. Its lane calls one method at a time, in the drain's event loop.

    `write` returns when the records are where the sink's documentation says "delivered" means. It raises
    `PermanentError` for records that can never be written, anything else for a failure worth another try.
    A method that blocks must run in a thread that `open` started (see `bus.worker.Worker`): at interpreter exit no
    new thread can be had.
    """

    async def open(self) -> None:
        """Make ready; raise `ConfigError` where the user must act. Called again after a fork, in the child."""

    async def write(self, records: Sequence[Record]) -> None:
        """Deliver `records`, in order."""

    async def aclose(self) -> None:
        """Release what `open` took. Called once, also after a failed `open`."""


Handler = Sink | Callable[[Record], Awaitable[object]] | Callable[[Sequence[Record]], Awaitable[object]] | str | Any

#: Functions from (handler) to a sink or None, asked in turn: how sinks, loggers and metric handlers become handlers.
adapters: list[Callable[[Any], Sink | None]] = []


#: Name -> function from (sink, option) to a sink in front of it.
stages: dict[str, Callable[[Sink, Any], Sink]] = {}


class CallableSink:
    """An async callable as a sink: one record a call, or a list of records where the lane has a batch size."""

    def __init__(self, call: Callable[[Any], Awaitable[object]], *, batches: bool) -> None:
        self.call = call
        self.batches = batches

    async def open(self) -> None:
        """Nothing to open."""

    async def write(self, records: Sequence[Record]) -> None:
        """Hand out the records; a lane without a batch size gives one at a time."""
        await self.call(list(records) if self.batches else records[0])

    async def aclose(self) -> None:
        """Nothing to close."""


def adapt(handler: Handler, *, batches: bool) -> Sink:
    """Return `handler` as a sink.

    Raises:
        ConfigError: it is of no known shape.
    """
    if isinstance(handler, Sink):
        return handler
    for adapter in adapters:
        sink = adapter(handler)
        if sink is not None:
            return sink
    if callable(handler):
        return CallableSink(handler, batches=batches)
    raise ConfigError(
        f"{handler!r} is no handler: give an async function, a Sink, a MetricHandler, a logging.Handler or a sink's URL"
    )


def handler_name(handler: Handler) -> str:
    """Return the name of a lane for `handler` when the user gives none."""
    name = getattr(handler, "name", None) or getattr(handler, "__name__", None)
    if isinstance(handler, str):
        name = handler.partition(":")[0]
    return str(name or type(handler).__name__)
