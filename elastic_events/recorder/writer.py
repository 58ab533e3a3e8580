"""The writing end: a ring whose slots lie in a mapped file."""

import itertools
import mmap
import os
import re
import secrets
import stat
import time
from collections.abc import Callable
from functools import cache
from operator import length_hint
from pathlib import Path
from zlib import crc32

from elastic_events.bus.context import Context
from elastic_events.bus.errors import ConfigError
from elastic_events.bus.process import close_at_exit
from elastic_events.bus.ring import END, Pipe
from elastic_events.recorder.format import BLOCK, CLOSED, EVENT_SLOT, LONG, VERSION, Geometry, Header, pack_header

__all__ = ("MappedRing", "boot_id", "open_rings", "read_slot", "why_gone")

#: Blocks for records longer than a slot, a file: the last so many of these survive.
BLOCKS = 64

#: Upper halves of the words of short frames: looked up, they cost less than a shift and an or.
_HIGH = tuple(length << 32 for length in range(EVENT_SLOT))

_NETWORK = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "lustre",
    "ceph",
    "9p",
    "glusterfs",
    "beegfs",
    "gpfs",
    "afs",
    "fuse.sshfs",
}


class MappedSlots:
    """Slots of one ring. A store is two: the frame, then the word that makes it valid. No lock, no system call."""

    __slots__ = ("_base", "_blocks", "_file", "_first", "_next_block", "_room", "_spill", "_step", "_stride", "_words")

    def __init__(self, file: mmap.mmap, geometry: Geometry, ring: int, next_block: Callable[[], int]) -> None:
        self._file = file
        self._base = geometry.rings[ring]
        self._first = self._base + 8
        self._stride = geometry.slots[ring]
        self._step = self._stride >> 3
        self._words = memoryview(file).cast("Q")[self._base >> 3 :]
        self._room = self._stride - 8
        self._spill = geometry.spill
        self._blocks = geometry.blocks
        self._next_block = next_block

    def __setitem__(self, index: int, frame: bytes) -> None:
        """Store `frame` in slot `index`. Frames are at most the encoder's limit long, which fits a block."""
        length = len(frame)
        if length <= self._room:
            # Slice stores, not pack_into: that one zeroes first, and a reader in another process sees the zeros (M6).
            at = self._first + index * self._stride
            self._file[at : at + length] = frame
            self._words[index * self._step] = _HIGH[length] + crc32(frame)
            return
        block = self._next_block() % self._blocks
        start = self._spill + block * BLOCK
        self._file[start : start + length] = frame
        self._words[index * self._step + 1] = block
        self._words[index * self._step] = (LONG | length) << 32 | crc32(frame)

    def __getitem__(self, index: int) -> bytes | None:
        """Return the frame in slot `index`, or None where there is none that is whole."""
        return read_slot(self._file, self._base + index * self._stride, self._stride, self._spill, self._blocks)

    def word(self, index: int) -> int:
        """Return the word of slot `index`."""
        return self._words[index * self._step]


def read_slot(file: mmap.mmap, at: int, stride: int, spill: int, blocks: int) -> bytes | None:
    """Return the frame of the slot at `at`, or None: empty, torn, damaged, or being written."""
    word = int.from_bytes(file[at : at + 8], "little")
    length = word >> 32 & (LONG - 1)
    if word >> 32 & LONG:
        block = int.from_bytes(file[at + 8 : at + 16], "little")
        if block >= blocks or length > BLOCK:
            return None
        frame = file[spill + block * BLOCK : spill + block * BLOCK + length]
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


class MappedRing:
    """A ring in a file: the same interface as `bus.ring.Ring`, and what is stored outlives the process."""

    def __init__(
        self, file: mmap.mmap, path: Path, geometry: Geometry, ring: int, next_block: Callable[[], int]
    ) -> None:
        self.path = path
        self.capacity = geometry.capacity
        self._file = file
        self._pid = os.getpid()
        self._slots = MappedSlots(file, geometry, ring, next_block)
        self._numbers = iter(range(END))
        self.pipe: Pipe = (self._numbers.__next__, self._slots, self.capacity - 1, time.monotonic_ns)

    @property
    def head(self) -> int:
        """The next sequence number."""
        return END - length_hint(self._numbers)

    def frames(self, first: int, stop: int) -> list[bytes | None]:
        """Return what the slots of `first` to `stop` hold."""
        return [self._slots[seq & (self.capacity - 1)] for seq in range(first, stop)]

    def why_gone(self, seq: int) -> str:
        """Return how the record `seq`, which its slot does not hold, was lost."""
        index = seq & (self.capacity - 1)
        return why_gone(self._slots[index], self._slots.word(index), old=seq < self.head - self.capacity // 2)

    def close(self) -> None:
        """Note in the file that this process ended in order: what it left is no sign of a death."""
        if os.getpid() == self._pid:
            self._file[CLOSED : CLOSED + 8] = (1).to_bytes(8, "little")


def open_rings(directory: Path, context: Context, capacity: int = 2048) -> tuple[MappedRing, MappedRing]:
    """Make this process's file in `directory` and return its rings of events and metrics.

    Raises:
        ConfigError: the directory cannot be used, and why.
        OSError: the disk is full, or worse.
    """
    secure(directory)
    geometry = Geometry(capacity, BLOCKS)
    header = Header(VERSION, capacity, BLOCKS, context, boot_id(), time.time_ns(), time.monotonic_ns())
    name = re.sub(r"[^A-Za-z0-9_-]", "_", f"{context.run_id[:40]}-{context.process}") + ".ring"
    part = directory / f".{name}.{secrets.token_hex(4)}.part"
    fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        # Writing to a mapped page that the disk has no room for is SIGBUS, the end of a training process (M7).
        os.posix_fallocate(fd, 0, geometry.size)
        file = mmap.mmap(fd, geometry.size)
        packed = pack_header(header)
        file[: len(packed)] = packed
        os.rename(part, directory / name)
    except BaseException:
        os.unlink(part)
        raise
    finally:
        os.close(fd)
    next_block = itertools.count().__next__
    rings = [MappedRing(file, directory / name, geometry, ring, next_block) for ring in range(2)]
    close_at_exit(rings[0].close)
    return rings[0], rings[1]


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


@cache
def boot_id() -> str:
    """Return the identity of this boot of the host."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""
