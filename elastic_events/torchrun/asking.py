"""How an agent asks a worker where it is: see `observe.stacks` for what answers."""

import ctypes
import os
import re
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from elastic_events.observe.folded import fold, is_framework
from elastic_events.observe.stacks import HEAD, NAME, SIGNAL

__all__ = ("Other", "Standing", "ask", "ask_others", "forked", "read", "read_stack")

#: Bytes of a stack that are read.
_MOST = 65_536

#: Threads and children of a worker that are asked, and the seconds that one of them has to answer: the agent waits.
_OTHERS, _ANSWERS = 32, 0.2

#: What a child runs first; behind it are the frames of its parent, at the time when it forked.
_CHILD = "multiprocessing/process.py"

#: The innermost frame of a thread that waits for something to do.
_IDLE = re.compile(r'  File ".*[/\\](?:threading|queue|selectors)\.py", line \d+ in (?:wait|get|select)$')


class Standing(NamedTuple):
    """What a worker's file says."""

    pid: int
    steps: int  #: of its optimizers
    size: int  #: of the file: it grows by a stack
    threads: tuple[int, ...] = ()  #: beside the main one; they may have ended


class Other(NamedTuple):
    """Where a thread of a worker is, or a process that it forked."""

    name: str  #: "thread 7012", "child 7013": the system's number
    stack: str  #: in short
    place: str  #: "at data.py:4 in load"; empty: in no line of the script, or a thread that waits for something to do


def read(error_file: str) -> Standing | None:
    """Return what the worker with this error file says; None: it cannot be asked."""
    try:
        with Path(error_file).with_name(NAME).open("rb") as file:
            pid, steps, *threads = HEAD.unpack(file.read(HEAD.size))
            return Standing(pid, steps, os.fstat(file.fileno()).st_size, tuple(filter(None, threads)))
    except (OSError, struct.error):
        return None


def read_stack(error_file: str, start: int) -> str:
    """Return what was appended from `start` on."""
    with Path(error_file).with_name(NAME).open("rb") as file:
        file.seek(start)
        return file.read(_MOST).decode(errors="replace")


def ask(pid: int, thread: int | None = None) -> bool:
    """Ask a thread where it is, by default the main one; return whether it listens. One that does not would die of the signal."""
    try:
        status = Path(f"/proc/{pid}/task/{thread or pid}/status").read_text("utf-8", "replace")
        caught, blocked = (int(status.partition(f"{which}:")[2].split()[0], 16) for which in ("SigCgt", "SigBlk"))
        if caught & ~blocked & 1 << (SIGNAL - 1):
            return bool(ctypes.CDLL(None).tgkill(pid, thread or pid, SIGNAL) == 0)
    except (OSError, IndexError, ValueError, AttributeError):
        pass  # it has ended
    return False


def ask_others(error_file: str, standing: Standing) -> Iterator[Other]:
    """Ask a worker's children that it forked, and its other threads, one after the other, until one does not answer."""
    threads = [(f"thread {one}", standing.pid, one) for one in standing.threads]
    children = [(f"child {one}", one, one) for one in forked(error_file, standing.pid)]
    for name, pid, thread in (children + threads)[:_OTHERS]:
        before = read(error_file)
        if before is None:
            return
        if ask(pid, thread):
            stack = _answer(error_file, before.size)
            if not stack:
                return  # it may come later: whoever is asked now would not be known apart from it
            yield _other(name, stack)


def _answer(error_file: str, start: int) -> str:
    """Wait until a stack is written, and whole."""
    seen, until = "", time.monotonic() + _ANSWERS
    while time.monotonic() < until:
        time.sleep(0.005)
        stack = read_stack(error_file, start)
        if stack and stack == seen:
            return stack
        seen = stack
    return ""


def _other(name: str, stack: str) -> Other:
    lines = stack.splitlines()
    ends = [at for at, line in enumerate(lines, 1) if _CHILD in line and line.endswith(" in _bootstrap")]
    text, place = fold("\n".join(lines[: ends[0]] if ends else lines))
    idle = name.startswith("thread") and any(map(_IDLE.match, lines[1:2]))
    if place is None or is_framework(place.file) or idle:
        return Other(name, text, "")
    return Other(name, text, f"at {place.file}:{place.line} in {place.function}")


def forked(error_file: str, pid: int) -> list[int]:
    """Return the children of a worker that answer as it does. What another program makes of our signal is not known."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            found += map(int, children.read_text().split())
    return [child for child in found if _writes(child, Path(error_file).with_name(NAME))]


def _writes(pid: int, path: Path) -> bool:
    """Whether a process has the file open: one that was forked has, until it runs another program."""
    for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(OSError):
            if descriptor.samefile(path):
                return True
    return False
