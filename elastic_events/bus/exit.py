"""What is called when this process ends."""

import atexit
import os
import sys
from collections.abc import Callable

__all__ = ("close_at_exit",)


class _Exit:
    """The calls of this process, in the order they were given."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []
        self.child = 0  # pid of the `multiprocessing` child that calls them by its own finalizers

    def __call__(self) -> None:
        for call in reversed(self.calls):
            call()


_exit = _Exit()

# Now, not with the first call: the hooks of others, registered later, run earlier, and what they record is to be delivered.
atexit.register(_exit)


def close_at_exit(call: Callable[[], object]) -> None:
    """Call `call()` when this process ends: on return, `sys.exit`, an uncaught exception and Ctrl-C; and in forked children.

    A `multiprocessing` child skips `atexit` on 3.11 and 3.12; its own finalizers run there (M3, F10), if `call` is given in
    the child, once more.
    """
    if call not in _exit.calls:
        _exit.calls.append(call)
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None and _exit.child != os.getpid():
        from multiprocessing.util import Finalize

        _exit.child = os.getpid()
        Finalize(None, _exit, exitpriority=100)
