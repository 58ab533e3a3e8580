"""What a bus must do when its process forks or ends."""

import atexit
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from elastic_events.bus.codec import decode, encode
from elastic_events.bus.ring import Pipe

__all__ = ("Armed", "after_fork_in_child", "close_at_exit", "forget")


class Armed:
    """A pipe whose first use calls `begin`, and which forwards to the pipe that `real` returns from then on.

    How a forked child starts its drain again, and a worker opens its flight recorder: on the first emit and not before.
    The hook that runs inside `fork()` may only rebind attributes: a lock held by a thread of the parent would hang it
    (F4). Emitters that come while `begin` runs wait for nothing: their frames wait, and get their numbers afterwards.
    """

    def __init__(self, begin: Callable[[], object], real: Callable[[], Pipe | None]) -> None:
        self._begin = begin
        self._real = real
        self._waiting: deque[bytes] = deque(maxlen=1024)
        self.pipe: Pipe = (self._take, self, 0, time.monotonic_ns)

    def _take(self) -> int:
        self._begin()
        return -1

    def __setitem__(self, index: int, frame: bytes) -> None:
        """Forward `frame` under a number of the real ring."""
        self._waiting.append(frame)
        while (pipe := self._real()) is not None:
            take, slots, mask, _ = pipe
            try:
                values = decode(self._waiting.popleft())
            except IndexError:
                return
            seq = take()
            slots[seq & mask] = encode([seq, *values[1:]])

    def __getitem__(self, index: int) -> bytes | None:
        """Hold nothing."""
        return None


_closers: list[Callable[[], object]] = []
_registered_in: set[int] = set()


def close_at_exit(close: Callable[[], object]) -> None:
    """Call `close` when this process ends: on return, `sys.exit`, an uncaught exception and Ctrl-C.

    A `multiprocessing` child skips `atexit` on 3.11 and 3.12; its own finalizers run there (M3, F10).
    """
    _closers.append(close)
    if os.getpid() in _registered_in:
        return
    _registered_in.add(os.getpid())
    atexit.unregister(_close_all)
    atexit.register(_close_all)
    if "multiprocessing" in sys.modules:
        from multiprocessing.util import Finalize

        Finalize(None, _close_all, exitpriority=100)


def forget(close: Callable[[], object]) -> None:
    """Do not call `close` at exit any more."""
    if close in _closers:
        _closers.remove(close)


def _close_all() -> None:
    for close in _closers:
        close()
    _closers.clear()


def after_fork_in_child(objects: Callable[[], Iterable[Any]]) -> None:
    """Call `after_fork()` of each of `objects()` in every forked child."""

    def reset() -> None:
        _closers.clear()
        for item in list(objects()):
            item.after_fork()

    os.register_at_fork(after_in_child=reset)
