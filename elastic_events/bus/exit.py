"""What is called when this process ends."""

import _thread
import atexit
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

__all__ = ("close_at_exit",)


class _Exit:
    """The calls of this process, in the order they were given."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []
        self.child = 0  # pid of the child that calls them by itself: `atexit` does not

    def __call__(self) -> None:
        for call in reversed(self.calls):
            call()


_exit = _Exit()

# Now, not with the first call: the hooks of others, registered later, run earlier, and what they record is to be delivered.
atexit.register(_exit)


def close_at_exit(call: Callable[[], object]) -> None:
    """Call `call()` when this process ends: on return, `sys.exit`, an uncaught exception and Ctrl-C; and in forked children.

    A `multiprocessing` child skips `atexit` on 3.11 and 3.12; its own finalizers run there (M3, F10), if `call` is given in
    the child, once more. So does a child that a thread made by `os.fork`: it ends with its last thread, and a drain's would
    keep it for ever. There a thread waits for the end of that one.
    """
    if call not in _exit.calls:
        _exit.calls.append(call)
    process = sys.modules.get("multiprocessing.process")
    if _exit.child == os.getpid():
        return
    parent = process.parent_process() if process is not None else None
    if parent is not None:
        from multiprocessing.util import Finalize

        _exit.child = os.getpid()
        Finalize(None, _exit, exitpriority=100)
        if parent.pid == os.getppid():  # or it is a child of that one, where no finalizer runs
            return
    if type(threading.main_thread()).__name__ not in ("_MainThread", "_DummyThread"):
        _exit.child = os.getpid()
        with suppress(RuntimeError):  # no thread can be started
            _thread.start_new_thread(_end_behind_threads, ())


def _end_behind_threads() -> None:
    """End as an interpreter does when its main thread has ended: behind all threads that are no daemons."""
    threading.main_thread().join()
    while others := [one for one in threading.enumerate() if not (one.daemon or one is threading.current_thread())]:
        for thread in others:  # which may start more
            with suppress(RuntimeError):  # it is about to start
                thread.join()
    _exit()
