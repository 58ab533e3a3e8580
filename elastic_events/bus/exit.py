"""What is called when this process ends."""

import _thread
import atexit
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

__all__ = ("close_at_exit",)


class _Exit:
    """The calls of this process, in the order they were given."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []
        self.child = 0  # pid of the child that calls them by itself: `atexit` does not
        self.is_of_thread = False  # this process is a child that a thread forked

    def __call__(self) -> None:
        for call in reversed(self.calls):
            call()

    def forked(self) -> None:
        """Called in a child, by the thread that forked it."""
        self.is_of_thread = _ident() != _MAIN


_exit = _Exit()

#: The main thread, in forked children too, unless another thread forks them. What `threading` says of it, gevent changes later.
_MAIN = threading.main_thread().ident
_ident = threading.get_ident

os.register_at_fork(after_in_child=_exit.forked)

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
    main = threading.main_thread()
    if _exit.is_of_thread or type(main).__name__ != "_MainThread":  # the second where this was loaded in the child
        _exit.child = os.getpid()
        with suppress(RuntimeError):  # no thread can be started
            _thread.start_new_thread(_end_behind_threads, ())


def _end_behind_threads() -> None:
    """End as an interpreter does when its main thread has ended: behind all threads that are no daemons."""
    main, here = threading.main_thread(), threading.current_thread()
    # One that `_thread` started cannot be joined. A thread that begins behind it, this one too, may have its ident.
    while main is not here and main in threading.enumerate() and main.ident in sys._current_frames():  # noqa: SLF001
        time.sleep(0.05)
    while others := [one for one in threading.enumerate() if not (one.daemon or one is main or one is here)]:
        for thread in others:  # which may start more
            with suppress(RuntimeError):  # it is about to start
                thread.join()
    _exit()
