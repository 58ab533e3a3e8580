"""Work of the event loop that would hold the GIL for long, in slices with a sleep between."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import anyio

from elastic_events.bus.pump import BREATH, FEW
from elastic_events.bus.record import Record

__all__ = ("in_slices",)

T = TypeVar("T")


async def in_slices(call: Callable[[Sequence[Record]], T], records: Sequence[Record], each: int = FEW) -> list[T]:
    """Call `call` with `each` of `records` at a time, and return what it returned."""
    results = [call(records[:each])]
    for begin in range(each, len(records), each):
        await anyio.sleep(BREATH)
        results.append(call(records[begin : begin + each]))
    return results
