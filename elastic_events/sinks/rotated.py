"""The parts of a rotated file: `run.jsonl` is being written, `run.jsonl.1.gz`, `run.jsonl.2` and so on are full.

Numbers only grow, so that a part never changes its name but to gain `.gz`, and a reader can say where it has come.
"""

import contextlib
import fcntl
import gzip
import os
import re
import shutil
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from elastic_events.sinks.files import open_private

__all__ = ("Housekeeper", "compress", "is_there", "list_parts", "next_number", "prune")


def list_parts(path: Path) -> dict[int, Path]:
    """Return the full parts of `path`, lowest number first; of a part that is there twice, the compressed one."""
    pattern = re.compile(re.escape(path.name) + r"\.(\d{1,18})(\.gz)?")
    # A large directory is read in pieces. A part that is compressed meanwhile may be in none of them, under neither name,
    # and of two that were put aside meanwhile only the later one: a reader would pass over a part, and a writer use its
    # number again. So it is read until there is nothing new: what one look misses was there before the next.
    found, known = _look(path.parent, pattern), None
    while found.keys() != known:
        known = found.keys()
        found = found | _look(path.parent, pattern)
    return dict(sorted(found.items()))


def _look(folder: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    found: dict[int, Path] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            match = pattern.fullmatch(entry.name)
            if match and (match[2] or int(match[1]) not in found):
                found[int(match[1])] = folder / entry.name
    return found


def is_there(path: Path) -> bool:
    """Whether `path` is there, or parts of it: for a moment, while it is put aside, there are these alone."""
    return path.exists() or (path.parent.is_dir() and bool(list_parts(path)))


def next_number(path: Path) -> int:
    """Return the number that `path` gets when it is full."""
    return max(list_parts(path), default=0) + 1


def prune(path: Path, keep: int) -> None:
    """Remove the oldest parts until `keep` are left."""
    for part in list(list_parts(path).values())[:-keep]:
        part.unlink(missing_ok=True)


def compress(part: Path) -> None:
    """Replace `part` by `part.gz`. Several processes may try; at any moment a whole part is there under one name.

    Raises:
        OSError: no room, or the like; the part stays as it was.
    """
    try:
        source = open_private(part, os.O_RDONLY)
    except FileNotFoundError:
        return  # another process was faster
    temporary = part.with_name(f"{part.name}.gz.tmp")
    with open(source, "rb") as plain:
        try:
            fcntl.flock(source, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # another process is at it
        if not part.exists():
            return
        temporary.unlink(missing_ok=True)  # left by one that was killed; its lock is gone
        target = open_private(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            # Level 1: a third of the time of the default for a tenth more bytes, on a core the training may want.
            with open(target, "wb") as raw, gzip.GzipFile("", "wb", 1, raw) as packed:
                shutil.copyfileobj(plain, packed, 1 << 18)
            temporary.rename(part.with_name(f"{part.name}.gz"))
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        part.unlink()


class Housekeeper:
    """A thread that compresses and removes full parts, so that no write waits for it."""

    def __init__(self, path: Path, *, keep: int | None, pack: bool) -> None:
        self.path = path
        self.keep = keep
        self.pack = pack
        self._calls: SimpleQueue[bool] = SimpleQueue()
        # From the start: at interpreter exit there is no new thread to be had (F15).
        self.thread: Thread = Thread(target=self._loop, name=f"elastic-events parts of {path.name}", daemon=True)
        self.thread.start()
        self.kick()

    def kick(self) -> None:
        """Look for full parts soon."""
        self._calls.put(True)

    def close(self) -> None:
        """Let the thread end after what it was asked. Does not wait: an uncompressed part is as good to a reader."""
        self._calls.put(False)

    def _loop(self) -> None:
        while self._calls.get():
            # What fails here, for want of room say, is tried again at the next rotation; no record depends on it.
            with contextlib.suppress(OSError, EOFError, ValueError):
                if self.keep is not None:
                    prune(self.path, self.keep)
            for part in self._unpacked():
                with contextlib.suppress(OSError, ValueError):
                    compress(part)

    def _unpacked(self) -> list[Path]:
        if not self.pack:
            return []
        try:
            return [part for part in list_parts(self.path).values() if part.suffix != ".gz"]
        except OSError:
            return []
