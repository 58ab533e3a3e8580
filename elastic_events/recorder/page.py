"""How the collector of a directory stands: one page, preallocated, since a disk is full just when it matters.

::

    0   magic "ELEVPAGE", sequence (u64; odd while it is written), length (u32), CRC-32 (u32), then msgpack of `Standing`
"""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

from elastic_events.recorder.alive import guard, release
from elastic_events.recorder.directory import PAGE

__all__ = ("LaneLedger", "PageReader", "PageWriter", "Standing")

MAGIC = b"ELEVPAGE"
SIZE = 65_536
BODY = 24


class LaneLedger(msgspec.Struct, frozen=True):
    """The ledger of one lane of the collector, for one request."""

    name: str
    run_id: str
    key: int  #: of the request
    everyone: bool
    ledger: dict[str, Any]  #: the fields of `LaneStats`
    over: bool = False  #: its last words are written


class Standing(msgspec.Struct, frozen=True):
    """What the collector says of itself."""

    pid: int
    time_ns: int  #: wall clock of this page
    lanes: tuple[LaneLedger, ...] = ()
    ended: bool = False  #: in order: everything that could be delivered is
    stays: bool = False  #: it does not end with its writers


class PageWriter:
    """The collector's end.

    Raises:
        OSError: the disk has no room for one page.
    """

    def __init__(self, directory: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(directory / PAGE, flags, 0o600)
        os.posix_fallocate(self._descriptor, 0, SIZE)
        self._sequence = int.from_bytes(os.pread(self._descriptor, 8, 8), "little") | 1

    def write(self, standing: Standing) -> None:
        """Replace what the page says. Where the disk refuses, it says nothing new until the next time."""
        body = msgspec.msgpack.encode(standing)
        while len(body) > SIZE - BODY:  # hundreds of sinks: the last ones are left out
            standing = msgspec.structs.replace(standing, lanes=standing.lanes[: len(standing.lanes) // 2])
            body = msgspec.msgpack.encode(standing)
        check = len(body).to_bytes(4, "little") + crc32(body).to_bytes(4, "little")
        # A file system that writes elsewhere than it allocated has no room either, and a disk may fail.
        with suppress(OSError):
            os.pwrite(self._descriptor, MAGIC + self._sequence.to_bytes(8, "little"), 0)
            os.pwrite(self._descriptor, check + body, 16)
            os.pwrite(self._descriptor, (self._sequence + 1).to_bytes(8, "little"), 8)
            self._sequence += 2

    def close(self) -> None:
        """Let it go."""
        os.close(self._descriptor)


class PageReader:
    """The programs' end. Keeps the page open, so that the last word of a collector that has removed it can be read.

    Its descriptor is guarded: a program that has closed all of them, to become a daemon, has files of its own there.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / PAGE
        self._last: Standing | None = None
        self._held: list[int] = []  # at most one, unless several threads read at once: each takes what it reads

    def read(self) -> Standing | None:
        """Return what the page says, or said last; None where there was none yet. Waits some milliseconds at most."""
        descriptor = self._take()
        try:
            self._last = _read(descriptor) or self._last
        finally:
            if descriptor >= 0:
                self._held.append(descriptor)
        return self._last

    def close(self) -> None:
        """Let it go."""
        with suppress(IndexError):
            while True:
                release(self._held.pop())

    def _take(self) -> int:
        """Open the page that has the name now; a new collector may have made a new one."""
        try:
            descriptor = guard(os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
        except OSError:
            with suppress(IndexError):
                return self._held.pop()
            return -1
        self.close()
        return descriptor


def _read(descriptor: int) -> Standing | None:
    for _ in range(20):  # it is being written
        with suppress(OSError, ValueError):
            data = os.pread(descriptor, SIZE, 0)
            length, check = int.from_bytes(data[16:20], "little"), int.from_bytes(data[20:24], "little")
            body = data[BODY : BODY + length]
            if data[:8] == MAGIC and not data[8] & 1 and crc32(body) == check:
                return msgspec.msgpack.decode(body, type=Standing)
        if descriptor < 0:
            break
        time.sleep(0.0005)  # its writer is a nice process, and may be interrupted in the middle
    return None


def lanes_of(standing: Standing | None, run_id: str, keys: set[int]) -> Mapping[str, LaneLedger]:
    """Return the lanes that the records of a process of this run and these requests go to, by name."""
    lanes = standing.lanes if standing is not None else ()
    found: dict[str, LaneLedger] = {}
    for lane in lanes:
        if lane.key in keys or (lane.everyone and lane.run_id in ("", run_id)):
            name = next(name for number in count(1) if (name := _numbered(lane.name, number)) not in found)
            found[name] = lane
    return found


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"
