"""What a lane can deliver to: a sink, and an async function as one."""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

from elastic_events.bus.record import Record

__all__ = ("BATCH", "CallableSink", "Emitting", "Handler", "OnFailure", "Sink", "is_async")

#: Records of a call to a sink, at most, unless its subscription says otherwise.
BATCH = 1024


#: What a failure of a handler or a source does beside being counted or told: nothing, or it ends the block of the bus.
OnFailure = Literal["continue", "raise"]


@runtime_checkable
class Sink(Protocol):
    """A handler that writes somewhere. Its lane calls one method at a time, in the drain's event loop.

    `write` returns when the records are where the sink's documentation says "delivered" means. It raises
    `PermanentError` for records that can never be written, anything else for a failure worth another try.
    A method that blocks must run in a thread that `open` started (see `bus.sink_thread.SinkThread`): at interpreter exit no
    new thread can be had. A sink with a method `hurry(on)` is told by it whether to work without pauses, one with an
    attribute `budget` for how many seconds a batch is tried; what it puts into an attribute `remarks` a person is told once.
    """

    async def open(self) -> None:
        """Make ready; raise `ConfigError` where the user must act. Called again if it fails, and in a forked child."""

    async def write(self, records: Sequence[Record]) -> None:
        """Deliver `records`, in order."""

    async def aclose(self) -> None:
        """Release what `open` took. Called once after each call of `open`, also after a failed one. What it raises is told."""


class Emitting(Protocol):
    """A torch-style `MetricHandler`, or a `logging.Handler`: its synchronous `emit` runs in a thread of its lane's own."""

    def emit(self, entry: Any, /) -> Any:
        """Take one metric point, or one LogRecord."""


Handler = Sink | Callable[[Record], Awaitable[object]] | Callable[[list[Record]], Awaitable[object]] | str | Emitting


def is_async(call: object) -> bool:
    """Return whether calling `call` gives something to wait for, as far as it says."""
    while isinstance(call, partial):
        call = call.func
    if callable(call) and any(map(inspect.iscoroutinefunction, (call, type(call).__call__, inspect.unwrap(call)))):
        return True
    returned = getattr(call, "__annotations__", {}).get("return", "")
    return "Awaitable" in str(returned) or "Coroutine" in str(returned)


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
