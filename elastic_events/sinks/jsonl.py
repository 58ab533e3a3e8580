"""JSON Lines: one stored record a line, in a file that rotates. `jsonl_read` tolerates what crashes leave behind."""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import SplitResult

from elastic_events.bus.errors import ConfigError, InputError
from elastic_events.bus.record import Record
from elastic_events.sinks.blocking import EncodingSink
from elastic_events.sinks.files import check_path, failure, from_root, open_private
from elastic_events.sinks.jsonl_read import JsonlPosition, read_jsonl
from elastic_events.sinks.jsonl_stream import JsonlStream, stream_of
from elastic_events.sinks.options import Options, file_path
from elastic_events.sinks.rotated import Housekeeper, next_number
from elastic_events.sinks.stored import from_json, to_lines

__all__ = ("JsonlPosition", "JsonlSink", "from_url", "read_jsonl")


class JsonlSink(EncodingSink[bytes]):
    """Appends records to a file, one stored record (`sinks.stored`) a line.

    Delivered means: handed to the kernel. It survives the death of the process, not a power failure. A failed write is
    taken back whole, so that the file never holds half a line of ours, and raised, so that the lane tries again. Where
    even that fails, and where a process was killed while it wrote, the next write begins with a newline (F73, F77); a
    record may then be there twice, under one id.

    Several processes may append to one file: each write holds a lock on it. Files are made with mode 0600.

    Args:
        path: of the file; its directory must exist.
        rotate: bytes at which the file is put aside as `path.1`, `path.2`, ...; None for never.
        rotate_every: seconds from the first record at which it is put aside; None for never.
        keep: how many full parts stay, at least 1; None for all.
        pack: whether full parts are compressed with gzip.
        clock: seconds since the epoch; for tests.
    """

    name = "jsonl"
    is_read_back = True  # its readers look for the ledger, whatever the lane wants
    thread_name = "elastic-events jsonl"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        rotate: int | None = None,
        rotate_every: float | None = None,
        keep: int | None = None,
        pack: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        if keep is not None and keep < 1:
            raise ConfigError(f"keep is the number of full parts that stay, 1 or more; it is {keep}")
        self.path: Path = from_root(path)
        self.rotate = rotate
        self.rotate_every = rotate_every
        self.keep = keep
        self.pack = pack
        self._clock = clock
        self._descriptor = -1
        self._file: tuple[int, int] | None = None  # device and inode of the file that is open
        self._end = -1  # bytes of the file after our last write
        self._began = 0.0  # seconds since the epoch: when the first record of the file was written
        self._housekeeper: Housekeeper | None = None

    def __repr__(self) -> str:
        return f"<JsonlSink {self.path}>"

    # --- in the sink's thread ---

    def check(self) -> None:
        """Say what is wrong with the path, without opening it: its directory is missing, it is a link, no file.

        Raises:
            ConfigError: that.
        """
        with contextlib.suppress(OSError):  # which `check_path` tells
            if self.path.is_fifo():
                raise ConfigError(f"{self.path} is no regular file but a FIFO: write jsonl:///{self.path}?fifo=1")
        check_path(self.path)

    def open_now(self) -> None:
        """Open or create the file; `ConfigError` says what is wrong with its path."""
        self.check()
        try:
            self._open()
        except OSError as error:
            raise failure(self.path, error) from None
        if self.rotate is not None or self.rotate_every is not None:
            self._housekeeper = Housekeeper(self.path, keep=self.keep, pack=self.pack)

    def encode(self, records: Sequence[Record]) -> bytes:
        """Return the lines of `records`."""
        return to_lines(records)

    def write_encoded(self, parts: Sequence[bytes]) -> None:
        """Append lines, or raise and leave the file as it was."""
        data = b"".join(parts)
        try:
            size = self._lock()
            if self._is_full(size, len(data)):
                size = self._put_aside()
            self._append(data, size)
        finally:
            _unlock(self._descriptor)

    def close_now(self) -> None:
        """Close the file."""
        if self._housekeeper is not None:
            self._housekeeper.close()
            self._housekeeper = None
        self._close()

    def abandon(self) -> None:
        """Close the child's copy of the descriptor; the parent's stays open and keeps its lock."""
        self._housekeeper = None
        self._close()

    # --- inside ---

    def _open(self) -> None:
        self._descriptor = open_private(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        status = os.fstat(self._descriptor)
        self._file, self._end = (status.st_dev, status.st_ino), -1
        self._began = self._first_time()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _lock(self) -> int:
        """Lock the file that `path` names now: another process may have put ours aside, or somebody removed it.

        Returns its size. Each system call lets go of the GIL, and waits for it beside training: there are as few as can be.
        """
        while True:
            if self._descriptor < 0:
                try:
                    self._open()
                except ConfigError as error:  # a FIFO, say, took its place, and may be removed: worth another try
                    raise OSError(str(error)) from None
            _lock(self._descriptor)
            with contextlib.suppress(FileNotFoundError):
                status = self.path.lstat()
                if (status.st_dev, status.st_ino) == self._file:
                    return status.st_size
            self._close()

    def _append(self, data: bytes, end: int) -> None:
        # An open tail: a process was killed here, or taking back a failed write failed as well (F73).
        if end not in (0, self._end) and os.pread(self._descriptor, 1, end - 1) != b"\n":
            data = b"\n" + data
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, end)
            raise
        self._end = end + len(data)

    def _is_full(self, size: int, more: int) -> bool:
        if not size:
            self._began = self._clock()
            return False
        too_long = self.rotate is not None and size + more > self.rotate
        too_old = self.rotate_every is not None and self._clock() - self._began >= self.rotate_every
        return too_long or too_old

    def _put_aside(self) -> int:
        """Begin a new file, and return its size. Who waits for the lock of the old one finds that `path` names another."""
        self.path.rename(self.path.with_name(f"{self.path.name}.{next_number(self.path)}"))
        self._close()
        size = self._lock()
        self._began = self._clock()
        if self._housekeeper is not None:
            self._housekeeper.kick()
        return size

    def _first_time(self) -> float:
        """Return when the file's first record was written; its own time, since a copy loses the file's."""
        try:
            return from_json(os.pread(self._descriptor, 1 << 16, 0).partition(b"\n")[0]).time_ns / 1e9
        except InputError:
            return os.fstat(self._descriptor).st_mtime


def from_url(url: SplitResult) -> JsonlSink | JsonlStream:
    """Return the sink of `jsonl:///run.jsonl?rotate=64MB&rotate_every=1h&keep=5&gzip=0`; see `sinks.urls`.

    `jsonl:stdout`, `jsonl:stderr`, `jsonl:////dev/stdout` and `jsonl:////a/fifo?fifo=1` are streams, which take no options.
    """
    options = Options(url)
    path = file_path(url)
    stream = stream_of(url)
    if stream is not None or options.flag("fifo", False):
        options.finish()
        return JsonlStream(path if stream is None else stream)
    sink = JsonlSink(
        path,
        rotate=options.size("rotate"),
        rotate_every=options.seconds("rotate_every"),
        keep=options.integer("keep"),
        pack=options.flag("gzip", True),
    )
    options.finish()
    return sink


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        # Some network file systems have no locks; one writer needs none.
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):
            raise


def _unlock(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        if descriptor >= 0:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
