"""A directory of recorders: whether it can be used, who collects it, and how to wake that collector up."""

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from elastic_events.bus.errors import ConfigError
from elastic_events.recorder.alive import guard, is_locked, release

__all__ = (
    "LOOP",
    "PROCESS",
    "Kicks",
    "holds",
    "is_collected",
    "kick",
    "let_go",
    "remove",
    "rings",
    "secure",
    "serves_requests",
    "take",
)

#: The files of a directory beside `*.ring`.
LOCK, FIFO, PAGE, REQUESTS, SPOOL, LOG = ".collector", ".kick", ".page", ".requests", ".spool", ".collector.log"

#: Who holds the lock, as it says in the file.
PROCESS, LOOP = b"proc", b"loop"

_NETWORK = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "ceph", "9p", "glusterfs", "beegfs", "gpfs", "afs"),
    "fuse.sshfs",
}


def secure(directory: Path) -> None:
    """Make `directory` if its parent is there; refuse one that others could write to, or that is on a network.

    Raises:
        ConfigError: it cannot be used, and what to do.
    """
    try:
        directory.mkdir(0o700, exist_ok=True)
        found = directory.lstat()
    except FileNotFoundError:
        raise ConfigError(
            f"{directory.parent} is missing: make it, or name another directory for the recorder"
        ) from None
    except OSError as error:
        raise ConfigError(f"{directory} cannot be used for the recorder: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"{directory} is no directory, or a symbolic link to one: name a directory for the recorder")
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ConfigError(f"{directory} belongs to or can be written by others: chmod 700 it, or name another")
    kind = file_system(directory)
    if kind in _NETWORK:
        raise ConfigError(
            f"{directory} is on a network file system ({kind}), where mapped files tear: name a local one"
        )


def file_system(path: Path) -> str:
    """Return the type of the file system that holds `path`, as /proc/mounts has it, or ""."""
    try:
        rows = [line.split() for line in Path("/proc/mounts").read_text("utf-8", "replace").splitlines()]
    except OSError:
        return ""
    resolved = path.resolve()
    mounts = {Path(row[1]): row[2] for row in rows if len(row) > 2}
    return next((mounts[place] for place in (resolved, *resolved.parents) if place in mounts), "")


# --- who collects ---


def take(directory: Path, who: bytes = PROCESS) -> int | None:
    """Become the one who collects `directory`: return the descriptor that holds its lock, or None where somebody else does.

    Closing the last copy of the descriptor lets the lock go. A lock on a file that was removed meanwhile is none. `who`
    says whether it is a collector process, which serves the requests of programs, or a bus in a launcher's loop.
    """
    path = directory / LOCK
    # Who only asks holds the lock for microseconds: one refusal is no answer.
    for _ in range(3):
        descriptor = _above_standard(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _names(path, descriptor):
                with contextlib.suppress(OSError):  # a full disk: who asks takes it for a process
                    os.pwrite(descriptor, who, 0)
                return guard(descriptor)
            os.close(descriptor)  # its last holder removed it between our two calls
        except BlockingIOError:
            os.close(descriptor)
            time.sleep(0.001)
        except BaseException:
            os.close(descriptor)
            raise
    return None


def let_go(descriptor: int) -> None:
    """Let the lock of a directory go, whoever has a copy of the descriptor: the shell that looks after a collector has."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    release(descriptor)


def holds(directory: Path, descriptor: int) -> bool:
    """Whether the descriptor is that of the lock file of `directory`."""
    return _names(directory / LOCK, descriptor)


def _above_standard(descriptor: int) -> int:
    """Return the descriptor as one that no child takes for its input, output or errors: this program has closed its own."""
    if descriptor > 2:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(descriptor)


def serves_requests(directory: Path) -> bool:
    """Whether who collects `directory` is a collector process."""
    with contextlib.suppress(OSError):
        return (directory / LOCK).read_bytes()[:4] != LOOP
    return True


def is_collected(directory: Path) -> bool:
    """Whether somebody collects `directory` now."""
    return is_locked(directory / LOCK)


def _names(path: Path, descriptor: int) -> bool:
    with contextlib.suppress(OSError):
        found, opened = path.lstat(), os.fstat(descriptor)
        return (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino)
    return False


def remove(directory: Path, *, whole: bool) -> None:
    """Remove what a collector made in `directory`, its lock last; with `whole` the directory, too, if that empties it.

    What another program has put there meanwhile stays.
    """
    for name in (FIFO, PAGE, LOG):
        with contextlib.suppress(OSError):
            (directory / name).unlink()
    shutil.rmtree(directory / SPOOL, ignore_errors=True)
    with contextlib.suppress(OSError):
        (directory / REQUESTS).rmdir()
    with contextlib.suppress(OSError):
        (directory / LOCK).unlink()
    if whole:
        with contextlib.suppress(OSError):
            directory.rmdir()


# --- waking it up ---


class Kicks:
    """The collector's end of the FIFO: readable when somebody wants it to look now."""

    def __init__(self, directory: Path) -> None:
        path = directory / FIFO
        with contextlib.suppress(FileExistsError):  # a collector that was killed left it
            os.mkfifo(path, 0o600)
        # For writing as well: without a writer it would be readable for ever.
        self.descriptor: int = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        if not stat.S_ISFIFO(os.fstat(self.descriptor).st_mode):  # an event loop cannot wait for another file
            os.close(self.descriptor)
            raise OSError(errno.EEXIST, "no FIFO", str(path))

    def clear(self) -> bool:
        """Take all that is in it; return whether there was something."""
        with contextlib.suppress(BlockingIOError):
            return bool(os.read(self.descriptor, 65_536))
        return False

    def close(self) -> None:
        """Let it go."""
        os.close(self.descriptor)


def kick(directory: Path) -> bool:
    """Ask the collector of `directory` to look now; return whether there is one to hear it. Never waits."""
    try:
        descriptor = os.open(directory / FIFO, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False  # none has opened it yet, or any more
    try:
        os.write(descriptor, b"!")
    except OSError as error:
        return error.errno == errno.EAGAIN  # full of kicks
    finally:
        os.close(descriptor)
    return True


def rings(directory: Path) -> Iterator[Path]:
    """Give the recorder files in `directory`; none where it is gone: its collector removes it when it ends."""
    names: list[str] = []
    with contextlib.suppress(FileNotFoundError):
        names = os.listdir(directory)
    yield from (directory / name for name in sorted(names) if name.endswith(".ring"))
