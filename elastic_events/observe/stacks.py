"""Where this process is, when its agent asks: the stacks of its threads, written by `faulthandler`.

A file beside torch's error file begins with words (u64): the pid, the number of optimizer steps so far, and the system's
numbers of its Python threads. The agent reads these; where a rank makes no step for long, it sends `SIGNAL` to one thread after
the other. The handler is C and appends the stack of the thread that it runs in: it needs no GIL, and interrupts no call
(SA_RESTART). Only of that thread: to walk another one that runs can crash (cpython#116008). A child that was forked, as a
DataLoader's, has the same handler and the same file.
"""

import faulthandler
import mmap
import os
import signal
import struct
import threading
from functools import wraps
from pathlib import Path
from typing import Any
from weakref import ref

from elastic_events.observe.guard import guarded, hook

__all__ = ("SIGNAL", "THREADS", "begin")

SIGNAL = signal.SIGRTMIN + 5

NAME = "elastic-events-stacks"

#: Threads beside the main one that can be asked.
THREADS = 62

#: Pid, steps, threads.
HEAD = struct.Struct(f"=QQ{THREADS}Q")

_open: list[Any] = []  # what `faulthandler` writes to has to stay open


def begin() -> None:
    """Let this rank be asked. A program that it runs is not the rank; a signal that the script uses is the script's."""
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not error_file or signal.getsignal(SIGNAL) is not signal.SIG_DFL:
        return
    from torch.optim.optimizer import register_optimizer_step_post_hook

    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(Path(error_file).with_name(NAME), flags, 0o600)
    except FileExistsError:
        return
    os.write(descriptor, HEAD.pack(os.getpid(), *[0] * (1 + THREADS)))
    words = memoryview(mmap.mmap(descriptor, HEAD.size)).cast("Q")
    file = os.fdopen(descriptor, "ab", buffering=0)
    _open.extend((file, words))

    def stepped(_: object) -> None:
        words[1] += 1

    register_optimizer_step_post_hook(hook("stacks", stepped))
    _tell_threads(words)
    faulthandler.register(SIGNAL, file, all_threads=False)


def _tell_threads(words: memoryview) -> None:
    """Keep the numbers of the threads that live in the words."""
    told: list[Any] = [None] * THREADS

    @guarded("stacks")  # off in a child, which has the same words
    def tell(thread: threading.Thread) -> None:
        for at, other in enumerate(told):
            before = other and other()
            if before is None or not before.is_alive():
                told[at], words[2 + at] = ref(thread), thread.native_id or 0
                return

    original = threading.Thread.start

    @wraps(original)
    def start(self: threading.Thread) -> None:
        original(self)
        tell(self)

    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            tell(thread)
    threading.Thread.start = start  # type: ignore[method-assign]
