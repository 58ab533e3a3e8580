"""The file beside torch's error file: which process is the rank itself, and what `faulthandler` says of its death.

torchrun gives each worker of each attempt a folder of its own, with the error file in it. The first process that observes
there is the rank; programs that it starts inherit the environment, and are not.
"""

import os
from pathlib import Path
from typing import Any, BinaryIO

from elastic_events.observe.folded import fold

__all__ = ("NAME", "claim", "left_behind")

NAME = "elastic-events.txt"

#: Bytes at the end of a worker's stderr that are read, and of the report.
_TAIL, _MOST = 4096, 65536

#: Lines of stderr that are kept.
_LINES = 20


def claim(error_file: str) -> BinaryIO | None:
    """Return the report of this rank, open for writing; None: another process that lives is the rank."""
    path = Path(error_file).with_name(NAME)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    file = os.fdopen(descriptor, "r+b", buffering=0)
    before = file.read(32).split(b"\n")[0]
    if before.isdigit() and int(before) != os.getpid() and os.path.exists(f"/proc/{int(before)}"):
        file.close()
        return None
    file.seek(0)
    file.truncate()
    file.write(b"%d\n" % os.getpid())
    return file


def left_behind(error_file: str, error: Any) -> dict[str, Any]:
    """Return what a dead worker left in its folder, as facts of its failure; empty: nothing.

    Args:
        error_file: its path.
        error: what it holds, as torch has read it.
    """
    folder = Path(error_file).parent
    found: dict[str, Any] = {}
    trace = _stack(error) or _dump(_read(folder / NAME, _MOST))
    if trace.strip():
        text, place = fold(trace)
        found["traceback"] = text
        if place is not None:
            found["file"], found["line"], found["function"] = place
    lines = _read(folder / "stderr.log", _TAIL, end=True).splitlines()
    if lines:
        found["stderr"] = "\n".join(lines[-_LINES:])
    return found


def _dump(report: str) -> str:
    """Return what `faulthandler` wrote: behind the pid, before the list of all compiled modules."""
    return report.partition("\n")[2].partition("\nExtension modules:")[0]


def _stack(error: Any) -> str:
    try:
        stack = error["message"]["extraInfo"]["py_callstack"]
    except (KeyError, TypeError):
        return ""
    return stack if isinstance(stack, str) and "File " in stack else ""


def _read(path: Path, most: int, *, end: bool = False) -> str:
    try:
        with path.open("rb") as file:
            if end:
                file.seek(max(0, os.fstat(file.fileno()).st_size - most))
            return file.read(most).decode(errors="replace")
    except OSError:
        return ""
