"""The reading end of one file: of a live process or a dead one, by the launcher or by hand."""

import mmap
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from elastic_events.bus.codec import decode
from elastic_events.bus.errors import InputError
from elastic_events.bus.pump import GRACE, Cursor, Make, or_nothing, to_records
from elastic_events.bus.record import Record
from elastic_events.bus.ring import END
from elastic_events.recorder.alive import boot_id, lives
from elastic_events.recorder.format import (
    CLOSED,
    LOSSES,
    REQUESTED,
    REQUESTS,
    WORDS,
    WORDS_AT,
    Geometry,
    Header,
    read_header,
)
from elastic_events.recorder.writer import read_slot, why_gone

__all__ = ("RecorderReader", "read_directory")

#: How far past an unfilled slot a reader looks for filled ones.
_PROBE = 8

#: Bytes of the slots' words that are compared at once.
_PART = 2048

#: Records of each ring in one look, at most, unless its caller says otherwise.
LOOK = 4096


class ForeignRing:
    """One ring of another process's file, as a cursor reads it. Its head is found by looking, since only its owner counts."""

    def __init__(self, file: mmap.mmap, geometry: Geometry, ring: int) -> None:
        shape = geometry.shapes[ring]
        self.capacity: int = shape.capacity
        self.position: int = 0
        self._file = file
        self._words = memoryview(file).cast("Q")
        self._base = geometry.slots[ring]
        self._stride = shape.slot
        self._spill = geometry.spill[ring]
        self._stamp: tuple[int, ...] = ()
        end = self._base + self.capacity * self._stride
        self._every = self._words[self._base >> 3 : end >> 3 : self._stride >> 3]
        self._seen = bytes(8 * self.capacity)
        # Farther slots as well, since an emitter that raised leaves its slots as they were.
        self._ahead = (*range(_PROBE), *(1 << power for power in range(3, self.capacity.bit_length() - 1)))

    @property
    def head(self) -> int:
        """The next sequence number, as far as records show it."""
        # Each stamp is taken before the slots behind it are read: what is stored after that changes the next stamp.
        stamp = self._look_ahead()
        if stamp == self._stamp:  # an idle file costs these few loads
            return self.position
        before = self.position
        while (found := max(self._sequence(self.position + ahead) for ahead in range(_PROBE))) >= self.position:
            self._leap(found + 1)
            stamp = self._look_ahead()
        # Slots may stay unfilled, or point to blocks that were used again: past these, only a look at all of them leads.
        if self.position == before:
            self._stamp = stamp
            self.find_head()
        else:
            self._stamp = ()  # the next look, if it finds no more, looks at all
        return self.position

    def _leap(self, head: int) -> None:
        """Go on from `head` by doubled steps while they meet records: a burst costs a few looks, not one for each eight."""
        step = _PROBE
        while step < self.capacity and (found := self._sequence(head + step)) >= head + step:
            head, step = found + 1, 2 * step
        self.position = head

    def frames(self, first: int, stop: int) -> list[bytes | None]:
        """Return what the slots of `first` to `stop` hold, where it is whole."""
        return [self._frame(seq) for seq in range(first, stop)]

    def _frame(self, seq: int) -> bytes | None:
        at = self._base + (seq & (self.capacity - 1)) * self._stride
        return read_slot(self._file, at, self._stride, self._spill)

    def why_gone(self, seq: int) -> str:
        """Return how the record `seq`, which its slot does not hold, was lost."""
        word = self._words[self._base + (seq & (self.capacity - 1)) * self._stride >> 3]
        return why_gone(self._frame(seq), word, old=seq < self.position - self.capacity // 2)

    def find_head(self) -> None:
        """Look at every slot that changed since the last time: the writer is dead, or the next slots say nothing."""
        words = self._every.tobytes()
        if words == self._seen:
            return
        changed = list(_changed(words, self._seen))
        self._seen = words
        self.position = max(self.position, 1 + max(self._sequence(slot) for slot in changed))

    def _look_ahead(self) -> tuple[int, ...]:
        words, base, stride, mask, at = self._words, self._base, self._stride, self.capacity - 1, self.position
        return tuple([words[base + ((at + ahead) & mask) * stride >> 3] for ahead in self._ahead])

    def _sequence(self, seq: int) -> int:
        frame = self._frame(seq)
        try:
            found = -1 if frame is None else decode(frame)[0]
        except (ValueError, TypeError, LookupError, RecursionError):
            return -1
        # One that cannot be in this slot is no sequence: the position would be there, and all before it lost.
        if isinstance(found, int) and 0 <= found < END and not (found ^ seq) & (self.capacity - 1):
            return int(found)
        return -1


def _changed(words: bytes, before: bytes) -> Iterator[int]:
    """Give the slots whose words differ: in parts, since a writer that is not in haste has changed a few side by side."""
    for at in range(0, len(words), _PART):
        new, old = words[at : at + _PART], before[at : at + _PART]
        if new != old:
            pairs = zip(memoryview(new).cast("Q"), memoryview(old).cast("Q"), strict=True)
            yield from (at // 8 + slot for slot, (one, other) in enumerate(pairs) if one != other)


class RecorderReader:
    """Reads one recorder file, from where the last collector stopped.

    Raises:
        InputError: the file is missing, foreign, damaged, of another version, or not private to its owner.
    """

    def __init__(self, path: Path, *, write: bool = False) -> None:
        self.path = path
        self._write = write
        try:
            fd = os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                found = os.fstat(fd)
                if not stat.S_ISREG(found.st_mode) or not found.st_size:
                    raise InputError(f"{path}: not a flight recorder file")
                access = mmap.ACCESS_WRITE if write else mmap.ACCESS_READ
                self._file = mmap.mmap(fd, found.st_size, access=access)
            finally:
                os.close(fd)
        except InputError:
            raise
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from error
        try:
            self.header: Header = read_header(self._file)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        geometry = Geometry(self.header.shapes)
        self._words = memoryview(self._file)[WORDS_AT : REQUESTED + 8 * REQUESTS].cast("Q")
        self.rings: list[ForeignRing] = [ForeignRing(self._file, geometry, ring) for ring in range(2)]
        self.cursors: list[Cursor] = [Cursor(ring) for ring in self.rings]
        self.gone: dict[str, list[int]] = {
            reason: list(self.told(reason)) for reason in LOSSES
        }  #: lost events and metrics, by reason
        self.last_ns: int = self.header.monotonic_ns  # monotonic time of the last record seen
        start = "safe" if write else "settled"  # what is between the two, a collector has in its spool
        for ring, cursor, begin in zip(self.rings, self.cursors, self.told(start), strict=True):
            ring.find_head()
            cursor.position = begin if begin <= ring.position else 0

    @property
    def closed(self) -> bool:
        """Whether the process ended its recording in order."""
        return self._words[(CLOSED - WORDS_AT) // 8] == 1

    @property
    def lost(self) -> dict[str, int]:
        """How many records were lost before anybody could read them, by reason; those of earlier collectors, too."""
        return {reason: sum(counts) for reason, counts in self.gone.items() if any(counts)}

    @property
    def alive(self) -> bool:
        """Whether the process still runs, and may still write."""
        return not self.closed and lives(self.header, self.path)

    @property
    def requests(self) -> set[int]:
        """The keys of the requests that want what this process records."""
        first = (REQUESTED - WORDS_AT) // 8
        return set(self._words[first : first + REQUESTS]) - {0}

    @contextmanager
    def or_nothing(self) -> Iterator[None]:
        """Let a block that fails have read nothing, and found nothing lost: the next look does it again."""
        gone = {reason: counts.copy() for reason, counts in self.gone.items()}
        try:
            with or_nothing(self.cursors):
                yield
        except BaseException:
            self.gone = gone
            raise

    def look(self, most: int = LOOK, *, dead: bool = False) -> list[Record]:
        """Return up to `most` new records of each ring, by time; with `dead`, wait for no interrupted emitter.

        They are `recovered` where the process ended without closing its rings.
        """
        if self.header.boot_id == boot_id():
            offset = time.time_ns() - time.monotonic_ns()
        else:
            offset = self.header.time_ns - self.header.monotonic_ns
        now = time.monotonic() + (2 * GRACE if dead else 0.0)

        make = partial(to_records, context=self.header.context, offset=offset, recovered=dead and not self.closed)
        records: list[Record] = []
        for cursor in self.cursors:
            records += self._look(cursor, most, now, make)
            if dead:  # what was late a moment ago will never come
                records += self._look(cursor, 0, now + 2 * GRACE, make)
        records.sort(key=lambda record: record.monotonic_ns)
        if records:
            self.last_ns = max(self.last_ns, records[-1].monotonic_ns)
        return records

    def all_dead(self) -> Iterator[Record]:
        """Give every record that is left by a process that is dead, or has closed its rings."""
        return self._so_far(dead=True)

    def rest(self) -> Iterator[Record]:
        """Give every record there is now, without touching the file."""
        return self._so_far(dead=not self.alive)

    def _so_far(self, *, dead: bool) -> Iterator[Record]:
        """Give what was recorded before the call: threads may go on faster than it is read, of a process that has closed, too."""
        for ring in self.rings:
            ring.find_head()
        heads = [ring.position for ring in self.rings]
        while True:
            yield from self.look(dead=dead)
            if all(cursor.position >= head for cursor, head in zip(self.cursors, heads, strict=True)):
                return

    @property
    def positions(self) -> tuple[int, int]:
        """How far each ring was read without a gap: the record of an interrupted emitter may still come."""
        events, metrics = (min((cursor.position, *cursor.late)) for cursor in self.cursors)
        return events, metrics

    def told(self, word: str) -> tuple[int, int]:
        """Return what a collector noted of events and of metrics; see `format.WORDS`."""
        at = 2 * WORDS.index(word)
        return self._words[at], self._words[at + 1]

    def note(self, word: str, counts: tuple[int, int]) -> None:
        """Note it in the file. The process reads it, and a later collector."""
        at = 2 * WORDS.index(word)
        self._words[at], self._words[at + 1] = counts

    def _look(self, cursor: Cursor, most: int, now: float, make: Make) -> list[Record]:
        found = cursor.look(most, now, make)
        ring = self.cursors.index(cursor)
        for reason, _, count in cursor.lost:
            self.gone[reason][ring] += count
        return found


def read_directory(
    directory: Path, damaged: Callable[[Path, str], object] = lambda _path, _reason: None
) -> Iterator[Record]:
    """Give the records of every recorder file in `directory`, one file after the other; `damaged` is told of the others.

    Raises:
        InputError: the directory is missing.
    """
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory")
    for path in sorted(directory.glob("*.ring")):
        try:
            reader = RecorderReader(path)
        except InputError as error:
            damaged(path, str(error))
            continue
        yield from reader.rest()
