"""Whether the process that writes a recorder file still lives, told by what cannot be mistaken for it.

Within one PID namespace that is its pid and its start time: a pid alone may be another's by now (F13), and a process forked
in C may hold its parent's lock. Across namespaces, where pids mean nothing, it is a `flock` that the writer holds on a
descriptor of its own: the kernel lets it go when the process ends, however it ends.
"""

import errno
import fcntl
import os
from contextlib import suppress
from functools import cache
from pathlib import Path

from elastic_events.bus.context import read_start_time
from elastic_events.recorder.format import Header

__all__ = ("boot_id", "guard", "hold", "is_another", "is_locked", "lives", "pid_namespace", "release", "runs")

#: Errors of opening where there is no file that somebody could hold.
_NO_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}

#: Descriptors that hold locks -> device and inode of their file.
_held: dict[int, tuple[int, int]] = {}


def hold(path: Path) -> int:
    """Lock the file at `path` for as long as this process lives or until `release`; return what to release.

    The descriptor is none that is mapped: a mapping keeps a copy, which forked children keep. A child closes it; another
    file may have its number there, since programs close descriptors that are not theirs.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return guard(descriptor)


def guard(descriptor: int) -> int:
    """Have forked children close this descriptor, which holds a lock; return it."""
    _held[descriptor] = _identity(descriptor)
    return descriptor


def release(descriptor: int) -> None:
    """Let a lock go; the second call does nothing."""
    identity = _held.pop(descriptor, None)
    with suppress(OSError):
        if identity is not None and _identity(descriptor) == identity:
            os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether somebody holds the file at `path`. Holds it for some microseconds itself."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        # What cannot be asked still goes on: this process has given up the right, by setuid, or has no descriptor left.
        return error.errno not in _NO_FILE
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def lives(header: Header, path: Path) -> bool:
    """Whether the program that wrote `header` into the file at `path` still lives on this boot of this host."""
    if header.boot_id != boot_id():
        return False
    if _is_near(header):
        return runs(header.context.process) and (is_locked(path) or _maps(header.context.pid, path))
    return is_locked(path)


def is_another(header: Header) -> bool:
    """Whether a writer that does not live has become another program, by exec: its process goes on."""
    if header.boot_id != boot_id() or not _is_near(header):
        return False
    return runs(header.context.process) and _has_a_program(header.context.pid)


def _is_near(header: Header) -> bool:
    return header.pid_namespace == pid_namespace() != ""


def _maps(pid: int, path: Path) -> bool:
    """Whether a process has a file mapped: it may have closed the descriptor with its lock, or become another by exec."""
    with suppress(OSError):
        inode = str(path.stat().st_ino)
        with open(f"/proc/{pid}/maps", "rb") as maps:
            return any(line.split(maxsplit=5)[4] == inode.encode() for line in maps)
    return True


def _has_a_program(pid: int) -> bool:
    """Whether a process has one: it gives that back at its end, before its locks, and may take long to give back the rest."""
    try:
        os.readlink(f"/proc/{pid}/exe")
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:  # who it belongs to may not be asked
        pass
    return True


def runs(process: str) -> bool:
    """Whether the process of this identity runs in this PID namespace; a zombie does not."""
    text, _, rest = process.partition("-")
    try:
        pid = int(text, 16)
        started = read_start_time(pid)
    except (ValueError, FileNotFoundError, ProcessLookupError):
        return False
    except OSError:  # no descriptor left: who cannot be asked for its start may still live
        return _is_there(pid)
    return started != 0 and rest.partition("-")[0] == f"{started:x}"


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@cache
def boot_id() -> str:
    """Return the identity of this boot of the host."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def pid_namespace() -> str:
    """Return the identity of this process's PID namespace; "" where /proc does not tell, or tells of another."""
    return _namespace_of(os.getpid())


@cache
def _namespace_of(pid: int) -> str:
    try:
        return os.readlink("/proc/self/ns/pid") if os.readlink("/proc/self") == str(pid) else ""
    except OSError:
        return ""


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _forget() -> None:
    """In a forked child: the parent's locks must fall when the parent ends."""
    for descriptor in list(_held):
        release(descriptor)


os.register_at_fork(after_in_child=_forget)
