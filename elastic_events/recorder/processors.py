"""Which processors a collector runs on: those that its writers leave.

It works in pieces of a millisecond, and on the processor of a training loop each of them is a late step: being nicer does
not help, since who wakes up is served at once. Where there are as many writers as processors it runs anywhere. It begins
so, before the modules of a collector are loaded, which takes longer than anything later: this file imports next to nothing.
"""

import os
from collections.abc import Iterable
from contextlib import suppress

__all__ = ("Aside",)


class Aside:
    """Keeps this process, all its threads, off the processors on which others run. Nothing where the system has no such call.

    From its making on the process is nice, and no longer bound to what its parent was bound to.
    """

    def __init__(self) -> None:
        os.nice(10)
        self._all: frozenset[int] = frozenset()
        with suppress(OSError, AttributeError):
            os.sched_setaffinity(0, range(os.cpu_count() or 1))
            self._all = frozenset(os.sched_getaffinity(0))
        self._chosen = self._all

    def step(self, pids: Iterable[int]) -> None:
        """Move off the processors that the main threads of `pids` ran on last."""
        if len(self._all) < 2:
            return
        taken: set[int] = set()
        for pid in pids:
            taken.add(_processor(pid))
            if taken >= self._all:
                break  # no processor is free of them
        chosen = (self._all - taken) or self._all
        if chosen != self._chosen:
            self._chosen = chosen
            for thread in os.listdir("/proc/self/task"):
                with suppress(OSError):  # it ended
                    os.sched_setaffinity(int(thread), chosen)


def _processor(pid: int) -> int:
    """Return where the main thread of a process ran last (proc(5), field 39); -1 where that is not known."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[36])
    except (OSError, ValueError, IndexError):
        return -1
