"""Work of the event loop that would hold the GIL for long, in slices with a sleep between."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import anyio

from elastic_events.bus.pump import BREATH, FEW
from elastic_events.bus.record import Record

__all__ = ("in_slices",)

T = TypeVar("T")


async def in_slices(
    call: Callable[[Sequence[Record]], T], records: Sequence[Record], each: int = FEW, *, hurried: bool = False
) -> list[T]:
    """Call `call` with `each` of `records` at a time, and return what it returned; `hurried`, without a rest between."""
    results = [call(records[:each])]
    for begin in range(each, len(records), each):
        await anyio.sleep(0 if hurried else BREATH)
        results.append(call(records[begin : begin + each]))
    return results
