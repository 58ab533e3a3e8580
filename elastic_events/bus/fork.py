"""What a forked child does: nothing inside `fork()` but rebinding attributes, and the rest with its first emit."""

import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from elastic_events.bus.codec import decode, encode
from elastic_events.bus.ring import Pipe

if TYPE_CHECKING:
    from elastic_events.bus.bus import EventBus

__all__ = ("Armed", "add_bus", "after_fork_in_child", "every_bus")

#: Every bus of this process that is not garbage. Not a `WeakSet`: any thread adds to it, and to iterate one would raise then.
_buses: "weakref.WeakKeyDictionary[EventBus, None]" = weakref.WeakKeyDictionary()


def add_bus(bus: "EventBus") -> None:
    """Have `bus` told in a forked child."""
    _buses[bus] = None


def every_bus() -> "list[EventBus]":
    """Return every bus of this process, open or not. Any thread may call it."""
    return [bus for reference in _buses.keyrefs() if (bus := reference()) is not None]


#: Frames that wait while a recorder opens: as many as its ring holds. Of those beyond, only their number waits, in sums.
_WAITING = 16_384


class Armed:
    """A pipe whose first use calls `begin`, and which forwards to the pipe that `real` returns from then on.

    How a forked child starts its drain again, and a worker opens its flight recorder: on the first emit and not before.
    The hook that runs inside `fork()` may only rebind attributes: a lock held by a thread of the parent would hang it
    (F4). Emitters that come while `begin` runs wait for nothing: their frames wait, and get their numbers afterwards, by
    whoever began (`forward`). A frame that finds no room leaves a number without a record, which the reader counts as lost.
    """

    def __init__(self, begin: Callable[[], object], real: Callable[[], Pipe | None]) -> None:
        self._begin = begin
        self._real = real
        self._waiting: deque[bytes | int] = deque()  # frames, and how many found no room
        self.pipe: Pipe = (self._take, self, 0, time.monotonic_ns)

    @property
    def waiting(self) -> int:
        """How many records wait. Any thread may ask."""
        return sum(1 if isinstance(one, bytes) else one for one in self._waiting.copy())

    def _take(self) -> int:
        self._begin()
        return -1

    def __setitem__(self, index: int, frame: bytes) -> None:
        """Forward `frame` under a number of the real ring."""
        self._waiting.append(frame if len(self._waiting) < _WAITING else 1)
        if len(self._waiting) > 2 * _WAITING:
            self._sum_up()
        self.forward()

    def forward(self) -> None:
        """Give the frames that wait to the real pipe, if there is one now."""
        while (pipe := self._real()) is not None:
            take, slots, mask, _ = pipe
            try:
                waited = self._waiting.popleft()
            except IndexError:
                return
            if isinstance(waited, int):
                for _ in range(waited):
                    take()
            else:
                seq = take()
                slots[seq & mask] = encode([seq, *decode(waited)[1:]])

    def _sum_up(self) -> None:
        """Put one sum in the place of the numbers at the end: a disk may hang for hours.

        What is popped here nobody else has, another thread or a signal handler in the midst of this loop neither.
        """
        total = 0
        try:
            for _ in range(_WAITING):
                last = self._waiting.pop()
                if not isinstance(last, int):
                    self._waiting.append(last)
                    break
                total += last
        except IndexError:  # they were all forwarded meanwhile
            pass
        finally:
            self._waiting.append(total)

    def __getitem__(self, index: int) -> bytes | None:
        """Hold nothing."""
        return None


def after_fork_in_child(objects: Callable[[], Iterable[Any]]) -> None:
    """Call `after_fork()` of each of `objects()` in every forked child."""

    def reset() -> None:
        for item in list(objects()):
            item.after_fork()

    os.register_at_fork(after_in_child=reset)


after_fork_in_child(every_bus)
