"""Private files: mode 0600, never through a symbolic link, and a sentence for everything that can be wrong with a path."""

import errno
import os
import stat
from pathlib import Path

from elastic_events.bus.errors import SCARCE, ConfigError, TransientError

__all__ = ("PRIVATE", "check_path", "failure", "from_root", "open_private", "refusal")

#: Permission bits of every file that a sink makes.
PRIVATE = 0o600

#: Errors that say nothing about a path: no room, no descriptor, a disk that fails just now. A delay, no user's mistake.
_LATER = SCARCE | {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EINTR}

#: What every opening adds: no link is followed (F75), a FIFO does not block, a child process inherits nothing.
_CAREFUL = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def from_root(path: str | os.PathLike[str]) -> Path:
    """Return `path` from the root: a program may change its directory while a sink writes.

    Raises:
        ConfigError: it begins in a working directory that was removed.
    """
    try:
        return Path(path).absolute()
    except OSError as error:
        raise ConfigError(f"{path} begins in the working directory, which is not there: {error.strerror}") from None


def open_private(path: Path, flags: int) -> int:
    """Open `path` with `flags` and return the descriptor; a file that is created gets mode 0600.

    Raises:
        OSError: as `os.open`, a symbolic link included.
        ConfigError: `path` is no regular file.
    """
    descriptor = os.open(path, flags | _CAREFUL, PRIVATE)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ConfigError(f"{path} is no regular file: name one that is, or one that does not exist yet")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_path(path: Path) -> None:
    """Look at where a file is to be, without opening it.

    Raises:
        ConfigError: its directory does not exist or may not be entered, or it is there and is no regular file.
    """
    parent = path.parent
    try:  # `is_dir` tells no more, from Python 3.14 on, of a directory that may not be looked at
        is_directory = stat.S_ISDIR(parent.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        is_directory = False
    except OSError as error:
        raise refusal(path, error) from None
    if not is_directory:
        raise ConfigError(f"the directory {parent} does not exist: make it first, with mkdir -p -m 700 {parent}")
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise refusal(path, error) from None
    if stat.S_ISLNK(mode):
        raise ConfigError(f"{path} is a symbolic link, which is never followed: name the file it points to")
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{path} is no regular file: name one that is, or one that does not exist yet")


def failure(path: Path, error: OSError) -> ConfigError | TransientError:
    """Return why a sink cannot open `path`: as `refusal`, but a full disk, say, is a delay and no mistake of the user's."""
    told = refusal(path, error)
    return TransientError(str(told)) if error.errno in _LATER else told


def refusal(path: Path, error: OSError) -> ConfigError:
    """Return what to tell the user when `path` could not be opened."""
    reason = error.strerror or str(error)
    if error.errno == errno.ELOOP:
        reason = "it is a symbolic link, which is never followed"
    return ConfigError(f"cannot write to {path}: {reason}")
