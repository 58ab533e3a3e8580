"""The writing end: rings whose slots lie in a mapped file."""

import itertools
import mmap
import os
import re
import secrets
import time
from collections.abc import Iterator
from operator import length_hint
from pathlib import Path
from zlib import crc32

from elastic_events.bus.context import Context
from elastic_events.bus.errors import ConfigError
from elastic_events.bus.ring import END, Pipe
from elastic_events.recorder.alive import boot_id, hold, pid_namespace, release
from elastic_events.recorder.directory import secure
from elastic_events.recorder.format import (
    BLOCK,
    CLOSED,
    EVENT_SLOT,
    LONG,
    REQUESTED,
    REQUESTS,
    VERSION,
    WORDS,
    WORDS_AT,
    Geometry,
    Header,
    Spill,
    pack_header,
    shapes_of,
)

__all__ = ("MappedRing", "RecorderFile", "open_rings", "read_slot", "why_gone")

#: Upper halves of the words of short frames: looked up, they cost less than a shift and an or.
_HIGH = tuple(length << 32 for length in range(EVENT_SLOT))


class MappedSlots:
    """Slots of one ring. A store is two: the frame, then the word that makes it valid. No lock, no system call."""

    __slots__ = (
        "_base",
        "_file",
        "_first",
        "_next_large",
        "_next_small",
        "_room",
        "_spill",
        "_step",
        "_stride",
        "_words",
    )

    def __init__(self, file: mmap.mmap, geometry: Geometry, ring: int) -> None:
        self._file = file
        self._base = geometry.slots[ring]
        self._first = self._base + 8
        self._stride = geometry.shapes[ring].slot
        self._step = self._stride >> 3
        self._words = memoryview(file).cast("Q")[self._base >> 3 :]
        self._room = self._stride - 8
        self._spill = geometry.spill[ring]
        self._next_small = itertools.count().__next__
        self._next_large = itertools.count().__next__

    def __setitem__(self, index: int, frame: bytes) -> None:
        """Store `frame` in slot `index`. Frames are at most the encoder's limit long, which fits a block."""
        length = len(frame)
        if length <= self._room:
            # Slice stores, not pack_into: that one zeroes first, and a reader in another process sees the zeros (M6).
            at = self._first + index * self._stride
            self._file[at : at + length] = frame
            self._words[index * self._step] = _HIGH[length] + crc32(frame)
            return
        begin, size, blocks = self._spill.of(length)
        block = (self._next_large if size == BLOCK else self._next_small)() % blocks
        start = begin + block * size
        self._file[start : start + length] = frame
        self._words[index * self._step + 1] = block
        self._words[index * self._step] = (LONG | length) << 32 | crc32(frame)

    def __getitem__(self, index: int) -> bytes | None:
        """Return the frame in slot `index`, or None where there is none that is whole."""
        return read_slot(self._file, self._base + index * self._stride, self._stride, self._spill)

    def word(self, index: int) -> int:
        """Return the word of slot `index`."""
        return self._words[index * self._step]


def read_slot(file: mmap.mmap, at: int, stride: int, spill: Spill) -> bytes | None:
    """Return the frame of the slot at `at`, or None: empty, torn, damaged, or being written."""
    word = int.from_bytes(file[at : at + 8], "little")
    length = word >> 32 & (LONG - 1)
    if word >> 32 & LONG:
        block = int.from_bytes(file[at + 8 : at + 16], "little")
        begin, size, blocks = spill.of(length)
        if block >= blocks or length > size:
            return None
        frame = file[begin + block * size : begin + block * size + length]
    elif 0 < length <= stride - 8:
        frame = file[at + 8 : at + 8 + length]
    else:
        return None
    return frame if crc32(frame) == word & 0xFFFFFFFF else None


def why_gone(frame: bytes | None, word: int, *, old: bool) -> str:
    """Return how a record was lost whose slot holds `frame` and `word` instead; `old` for the older half of the ring.

    Its own emitter tears a slot at the end of the ring, the emitter of the next lap one at the begin. A long record is
    gone as soon as its block is used again.
    """
    return "overwritten" if frame is None and word and (old or word >> 32 & LONG) else "interrupted"


class RecorderFile:
    """This process's file in a directory of recorders: two rings, and what the collector says of them.

    Any thread may read it. A forked child must not touch it: it makes one of its own.
    """

    def __init__(self, path: Path, file: mmap.mmap, geometry: Geometry, lock: int) -> None:
        self.path = path
        self.rings: tuple[MappedRing, MappedRing] = (
            MappedRing(self, file, geometry, 0),
            MappedRing(self, file, geometry, 1),
        )
        self._file = file
        self._words = memoryview(file)[WORDS_AT : REQUESTED + 8 * REQUESTS].cast("Q")
        self._lock = lock
        self._pid = os.getpid()

    def request(self, key: int) -> None:
        """Ask that the sink of this request gets what is recorded here. Only the thread that opens or subscribes.

        Raises:
            ConfigError: there are too many.
        """
        first = (REQUESTED - WORDS_AT) // 8
        for at in range(first, first + REQUESTS):
            if self._words[at] in (0, key):
                self._words[at] = key
                return
        raise ConfigError(f"a process can have {REQUESTS} sinks at most")

    def told(self, word: str) -> tuple[int, int]:
        """Return what the collector says of events and of metrics; see `format.WORDS`."""
        at = 2 * WORDS.index(word)
        return self._words[at], self._words[at + 1]

    @property
    def closed(self) -> bool:
        """Whether the rings were closed in order."""
        return self._words[(CLOSED - WORDS_AT) // 8] == 1

    def close(self) -> None:
        """Note that this process ended its recording in order: what it left is no sign of a death. Idempotent."""
        if os.getpid() == self._pid:
            self._words[(CLOSED - WORDS_AT) // 8] = 1
            release(self._lock)


class MappedRing:
    """A ring in a file: the same interface as `bus.ring.Ring`, and what is stored outlives the process."""

    def __init__(self, file: RecorderFile, data: mmap.mmap, geometry: Geometry, ring: int) -> None:
        self.file = file
        self.path: Path = file.path
        self.capacity: int = geometry.shapes[ring].capacity
        self._slots = MappedSlots(data, geometry, ring)
        self.numbers: Iterator[int] = iter(range(END))
        self.pipe: Pipe = (self.numbers.__next__, self._slots, self.capacity - 1, time.monotonic_ns)

    @property
    def head(self) -> int:
        """The next sequence number."""
        return END - length_hint(self.numbers)

    def frames(self, first: int, stop: int) -> list[bytes | None]:
        """Return what the slots of `first` to `stop` hold."""
        return [self._slots[seq & (self.capacity - 1)] for seq in range(first, stop)]

    def why_gone(self, seq: int) -> str:
        """Return how the record `seq`, which its slot does not hold, was lost."""
        index = seq & (self.capacity - 1)
        return why_gone(self._slots[index], self._slots.word(index), old=seq < self.head - self.capacity // 2)

    def close(self) -> None:
        """Close the file of both rings in order."""
        self.file.close()


def open_rings(
    directory: Path, context: Context, capacity: int | None = None, *, source: str = "WORKER"
) -> tuple[MappedRing, MappedRing]:
    """Make this process's file in `directory` and return its rings of events and metrics.

    Args:
        directory: made, private, if it is missing.
        context: who speaks; its run and process name the file.
        capacity: slots of each ring; by default 16,384.
        source: "WORKER" or "AGENT": as what a reader shall tell the death of this process.

    Raises:
        ConfigError: the directory cannot be used, and why.
        OSError: the disk is full, or worse.
    """
    secure(directory)
    shapes = shapes_of(capacity)
    geometry = Geometry(shapes)
    clocks = time.time_ns(), time.monotonic_ns()
    packed = pack_header(Header(VERSION, shapes, context, boot_id(), pid_namespace(), *clocks, source))
    name = re.sub(r"[^A-Za-z0-9_-]", "_", f"{context.run_id[:40]}-{context.process}") + ".ring"
    part = directory / f".{name}.{secrets.token_hex(4)}.part"
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    lock = -1
    try:
        lock = hold(part)  # before it has its name: no reader sees a file of a live process without a lock
        # Writing to a mapped page that the disk has no room for is SIGBUS, the end of a training process (M7).
        os.posix_fallocate(descriptor, 0, geometry.size)
        data = mmap.mmap(descriptor, geometry.size)
        data[: len(packed)] = packed
        os.rename(part, directory / name)
    except BaseException:
        release(lock)
        os.unlink(part)
        raise
    finally:
        os.close(descriptor)
    return RecorderFile(directory / name, data, geometry, lock).rings
