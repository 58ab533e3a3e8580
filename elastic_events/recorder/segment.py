"""One file of a spool.

::

    events-000000000000002a.spool        the segment that begins with the 42nd event (from 0) that the spool was given
      0   magic "ELEVSPL1", position (u64), CRC-32 of the position (u32), 4 bytes      every record below it is done with
      24  batch, batch, ...
    a batch
      0   "ELVB", length of the body, its CRC-32, records (u32 each), first and last entry number (u64), CRC-32 of all this
      36  body: msgpack of [contexts, entry numbers (or the first, where one follows the other), rows]

A segment's name says how many records of its kind were before it, so that damage is a loss of a known number as soon as
there is a next segment. Little endian. A row is a record as it is in memory, not its frame.
"""

import errno
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from elastic_events.bus.codec import plain
from elastic_events.bus.context import Context
from elastic_events.bus.errors import SCARCE
from elastic_events.bus.record import Record, record_of

__all__ = ("LATER", "START", "Directory", "Head", "Segment", "Torn", "batches", "pack")

#: Errors of a disk that cannot be read just now, which say nothing about the file; EBADF: it was closed.
LATER = SCARCE | {errno.EBADF}

#: Where the first batch begins.
START = 24

_MAGIC = b"ELEVSPL1"
_FILE = struct.Struct("<8sQI4x")
_POSITION = struct.Struct("<QI")
_BATCH_MAGIC = b"ELVB"
_BATCH = struct.Struct("<4sIIIQQ")
_HEAD = _BATCH.size + 4

#: Records and encoded bytes of a batch, about: what is decoded at a time.
_RECORDS = 512
_BYTES = 256 * 1024

_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC

#: What a record may raise that msgpack cannot hold.
_UNFIT = (TypeError, ValueError, OverflowError, RecursionError)

_Row = tuple[Any, Any, Any, Any, Any, Any, tuple[Any, ...], int, Any, Any]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[list[list[Any]], int | list[int], list[_Row]]).decode


class Head(NamedTuple):
    """What stands before a batch."""

    length: int  #: bytes of its body
    crc: int
    records: int
    first: int  #: entry number of its first record, and
    last: int  #: of its last


class Torn(NamedTuple):
    """What was behind the last whole batch of a segment."""

    records: int
    unknown: int = 0  #: 1 if there is something, and nothing says how many records


class Directory:
    """The open directory of a spool."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd: int = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def remove(self, name: str) -> None:
        """Remove a file. One that stays is read again after a kill, which costs nothing but records that come twice."""
        with suppress(OSError):
            os.unlink(name, dir_fd=self.fd)

    def close(self) -> None:
        """Close it: no file can be opened any more."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Segment:
    """One file, and how far it was read."""

    __slots__ = ("directory", "done", "end", "entry", "fd", "first", "last", "left", "name", "offset", "size")

    def __init__(self, directory: Directory, name: str, first: int) -> None:
        self.directory: Directory = directory
        self.name: str = name
        self.fd: int = -1
        self.first: int = first  # records of its kind before it
        self.end: int = first  # and before the next one
        self.entry: int = 0  # entry number of its first record, and
        self.last: int = -1  # of its last
        self.size: int = 0  # bytes that are whole
        self.offset: int = START  # where the next batch is read; from there on:
        self.done: int = 0  # records that were handed out all the same
        self.left: int = 0  # and then those that were not

    def open(self, flags: int = 0) -> int:
        """Return the descriptor of the file."""
        if self.fd < 0:
            self.fd = os.open(self.name, _FLAGS | flags, 0o600, dir_fd=self.directory.fd)
        return self.fd

    def close(self) -> None:
        """Close it; it is opened again where it is needed."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def remove(self) -> None:
        """Close and remove it."""
        self.close()
        self.directory.remove(self.name)

    def write(self, data: bytes, head: Head, done: int) -> int:
        """Add one batch, of which the first `done` records were handed out; return how many bytes that took.

        One write, so that a batch is there or not.

        Raises:
            OSError: the disk refuses, and the batch is not there.
        """
        if not self.size:
            data = _FILE.pack(_MAGIC, 0, _crc(0)) + data
        try:
            # Of a new segment's name there is at most a file that holds nothing, which could not be removed.
            fd = self.open(0 if self.size else os.O_CREAT | os.O_TRUNC)
            if os.pwrite(fd, data, self.size) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._take_back()
            raise
        self.size += len(data)
        self._count(head, done)
        return len(data)

    def write_position(self, position: int) -> None:
        """Note that every record before entry number `position` is done with."""
        with suppress(OSError):
            os.pwrite(self.open(), _POSITION.pack(position, _crc(position)), len(_MAGIC))

    def read(self) -> tuple[list[Record], list[int], int]:
        """Return records of the next batch and their entry numbers, or how many of it are lost; both may be none.

        Raises:
            OSError: it cannot be read.
        """
        fd = self.open()
        head = _read_head(fd, self.offset)
        if head is None or head.records - self.done > self.left:
            return [], [], self.give_up()
        done = min(self.done, head.records)
        here = head.records - done
        records, entries = _unpack(os.pread(fd, head.length, self.offset + _HEAD), head) if here else ([], [])
        self.offset += _HEAD + head.length
        self.done -= done
        self.left -= here
        return records[done:], entries[done:], 0 if records else here

    def give_up(self) -> int:
        """Read no more of what there is; return how many records that are."""
        lost, self.left, self.done, self.offset = self.left, 0, 0, self.size
        return lost

    def adopt(self) -> Torn:
        """Count what an earlier process left in the file, by the heads of the batches; change nothing.

        Raises:
            OSError: one of `LATER`.
        """
        try:
            return self._measure(self.open())
        except OSError as error:
            if error.errno in LATER:
                raise
            return Torn(0, 1)
        finally:
            self.close()

    def _measure(self, fd: int) -> Torn:
        found = os.fstat(fd)
        start = os.pread(fd, START, 0)
        if not found.st_size:
            return Torn(0)  # made, and killed before the first write
        if len(start) < START or not start.startswith(_MAGIC) or not stat.S_ISREG(found.st_mode):
            return Torn(0, 1)
        _, position, crc = _FILE.unpack(start)
        if crc != _crc(position):
            position = 0
        self.size = START
        while self.size < found.st_size:
            head = _read_head(fd, self.size)
            if head is None:
                return Torn(0, 1)
            if self.size + _HEAD + head.length > found.st_size:
                return Torn(head.records)
            self._count(head, _done(fd, self.size + _HEAD, head, position))
            self.size += _HEAD + head.length
        return Torn(0)

    def _count(self, head: Head, done: int) -> None:
        if self.end == self.first:
            self.entry = head.first
        self.end += head.records
        self.last = head.last
        self.done += done
        self.left += head.records - done

    def _take_back(self) -> None:
        """Undo a write that failed: the next goes to the same place, but a kill may come before it."""
        if self.size:
            with suppress(OSError):
                os.ftruncate(self.open(), self.size)
        else:
            self.remove()


def batches(records: Sequence[Record]) -> Iterator[int]:
    """Give the end of each batch that `records` are cut into."""
    count = size = 0
    for number, record in enumerate(records):
        if count == _RECORDS or (count and size + record.size > _BYTES):
            yield number
            count = size = 0
        count += 1
        size += record.size
    if count:
        yield len(records)


def pack(records: Sequence[Record], entries: Sequence[int]) -> tuple[bytes, Head]:
    """Return the batch of `records`, and its head."""
    contexts = {id(record.context): record.context for record in records}
    number = {key: index for index, key in enumerate(contexts)}
    rows: list[tuple[Any, ...]] = [
        (
            *(record.kind, record.seq, record.time_ns, record.monotonic_ns, record.name, record.channel, record.fields),
            *(number[id(record.context)], record.size, record.recovered),
        )
        for record in records
    ]
    speakers = [list(msgspec.structs.astuple(context)) for context in contexts.values()]
    numbers = entries[0] if entries[-1] - entries[0] == len(entries) - 1 else list(entries)
    try:
        body = _encode((speakers, numbers, rows))
    except _UNFIT:
        body = _encode(([plain(speaker) for speaker in speakers], numbers, [_fit(row) for row in rows]))
    head = Head(len(body), crc32(body), len(records), entries[0], entries[-1])
    packed = _BATCH.pack(_BATCH_MAGIC, *head)
    return b"".join((packed, crc32(packed).to_bytes(4, "little"), body)), head


def _fit(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return `row` with what msgpack cannot hold as text: from a stream that was read back, never from a ring."""
    try:
        _encode(row)
    except _UNFIT:
        return (*map(plain, row[:6]), [plain(value) for value in row[6]], *row[7:])
    return row


def _unpack(body: bytes, head: Head) -> tuple[list[Record], list[int]]:
    """Return the records and entry numbers of a body; none if it is damaged."""
    if len(body) != head.length or crc32(body) != head.crc:
        return [], []
    try:
        speakers, numbers, rows = _decode(body)
        contexts = [Context(*speaker) for speaker in speakers]
        records = [record_of(*row[:7], contexts[row[7]], *row[8:]) for row in rows]
    except (msgspec.MsgspecError, ValueError, TypeError, LookupError, RecursionError):
        return [], []
    return records, numbers if isinstance(numbers, list) else list(range(numbers, numbers + len(records)))


def _read_head(fd: int, offset: int) -> Head | None:
    """Return the head of the batch at `offset`; None if there is none that is whole."""
    data = os.pread(fd, _HEAD, offset)
    if len(data) < _HEAD or crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        return None
    magic, *rest = _BATCH.unpack_from(data)
    return Head(*rest) if magic == _BATCH_MAGIC else None


def _done(fd: int, start: int, head: Head, position: int) -> int:
    """Return how many records of a batch lie before `position`; 0 if that cannot be read."""
    if head.first < position <= head.last:
        _, entries = _unpack(os.pread(fd, head.length, start), head)
        return sum(entry < position for entry in entries)
    return head.records if head.last < position else 0


def _crc(position: int) -> int:
    return crc32(position.to_bytes(8, "little"))
