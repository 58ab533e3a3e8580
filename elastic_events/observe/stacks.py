"""Where this process is, when its agent asks: the stack of its main thread, written by `faulthandler`.

A file beside torch's error file begins with two words (u64), the pid and the number of optimizer steps so far. The agent
reads these; where a rank makes no step for long, it sends `SIGNAL`, whose handler is C and appends the stack to the file: it
needs no GIL, and interrupts no call (SA_RESTART). Of one thread only: to walk all of them can crash (cpython#116008).
"""

import faulthandler
import mmap
import os
import signal
import struct
from pathlib import Path
from typing import Any, NamedTuple

from elastic_events.observe.guard import hook

__all__ = ("SIGNAL", "Standing", "ask", "begin", "read", "read_stack")

SIGNAL = signal.SIGRTMIN + 5

NAME = "elastic-events-stacks"

_HEAD = struct.Struct("=QQ")

#: Bytes of a stack that are read.
_MOST = 65_536

_open: list[Any] = []  # what `faulthandler` writes to has to stay open


class Standing(NamedTuple):
    """What a worker's file says."""

    pid: int
    steps: int  #: of its optimizers
    size: int  #: of the file: it grows by a stack


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
    os.write(descriptor, _HEAD.pack(os.getpid(), 0))
    words = memoryview(mmap.mmap(descriptor, _HEAD.size)).cast("Q")
    file = os.fdopen(descriptor, "ab", buffering=0)
    _open.extend((file, words))

    def stepped(_: object) -> None:
        words[1] += 1

    register_optimizer_step_post_hook(hook("stacks", stepped))
    faulthandler.register(SIGNAL, file, all_threads=False)


def read(error_file: str) -> Standing | None:
    """Return what the worker with this error file says; None: it cannot be asked."""
    try:
        with Path(error_file).with_name(NAME).open("rb") as file:
            pid, steps = _HEAD.unpack(file.read(_HEAD.size))
            return Standing(pid, steps, os.fstat(file.fileno()).st_size)
    except (OSError, struct.error):
        return None


def read_stack(error_file: str, start: int) -> str:
    """Return what was appended from `start` on."""
    with Path(error_file).with_name(NAME).open("rb") as file:
        file.seek(start)
        return file.read(_MOST).decode(errors="replace")


def ask(pid: int) -> bool:
    """Ask a process where it is; return whether it listens. One that does not would die of the signal."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("utf-8", "replace")
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        if caught >> (SIGNAL - 1) & 1:
            os.kill(pid, SIGNAL)
            return True
    except (OSError, IndexError, ValueError):
        pass  # it has ended
    return False
