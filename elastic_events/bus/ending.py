"""The end of the process: all buses that are open are closed at once, within one deadline."""

import contextlib
import time
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING

import anyio

from elastic_events.front import front

if TYPE_CHECKING:
    from elastic_events.bus.life import Life

__all__ = ("end_all", "take_over")


def end_all() -> None:
    """Close the open buses within the longest of their deadlines, or until Ctrl-C; each says what it lost."""
    asked: dict[Life, tuple[float, Sequence[int]]] = {}
    try:
        _end(asked)
    except BaseException as error:  # Ctrl-C, or a signal's handler: nobody wants to wait any longer
        _end_now(asked)
        if not isinstance(error, KeyboardInterrupt):
            raise


def _end_now(asked: "dict[Life, tuple[float, Sequence[int]]]") -> None:
    """Close what is open still, with a moment for all together; of a handler that does not end each says what it lost, too."""
    asked.update({bus: (0.0, bus._pump.heads()) for bus in _fresh(asked)})
    left = [bus for bus in asked if bus._state != "closed"]
    for bus in left:
        bus._ask_to_close(0)
    now = time.monotonic()
    for bus in left:
        try:
            bus._finish(now, asked[bus][1])
        except KeyboardInterrupt:
            bus._closed()


def _end(asked: "dict[Life, tuple[float, Sequence[int]]]") -> None:
    latest = 0.0
    while fresh := _fresh(asked):  # others open meanwhile
        now = time.monotonic()
        latest = latest or now + max(bus.timeout for bus in fresh)
        asked.update({bus: (min(now + bus.timeout, latest), bus._pump.heads()) for bus in fresh})
        for bus in fresh:
            bus._ask_to_close(asked[bus][0] - now)
        take_over({bus: asked[bus][0] - now for bus in fresh if bus._is_adrift})
        for bus in fresh:
            bus._finish(*asked[bus])


def _fresh(asked: "Container[Life]") -> "list[Life]":
    return [bus for bus in front.buses if bus not in asked and not bus._is_idle]


def take_over(adrift: "Mapping[Life, float]") -> None:
    """Run the drains that nobody runs, each for so many seconds at most, in a loop of this thread's own."""

    async def run_all() -> None:
        async with anyio.create_task_group() as tasks:
            for bus in adrift:
                tasks.start_soon(bus._drain.run)

    for bus, seconds in adrift.items():
        bus._drain.resume(max(seconds, 0.0))
    if adrift:
        with contextlib.suppress(Exception):  # what failed was said, and what is left is counted
            anyio.run(run_all)
