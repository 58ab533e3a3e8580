"""A lane's backlog on disk, for a sink that is away: segments of batches, events apart from metrics.

Killed at any moment, a process leaves what the next one can take over: a batch is one write, and one that is torn is the
last of its segment; nobody appends to a segment of another process; the position in a segment only ever says less than was
done, so that some records come twice, under their ids, and none is skipped. Nothing is synced: this is for the death of a
process, not of the host.
"""

import fcntl
import math
import os
import re
import weakref
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from elastic_events.bus.backlog import Found
from elastic_events.bus.errors import ConfigError, told
from elastic_events.bus.fork import after_fork_in_child
from elastic_events.bus.queued import Queue
from elastic_events.bus.record import Record
from elastic_events.recorder.directory import secure
from elastic_events.recorder.segment import LATER, START, Directory, Head, Segment, Torn, batches, pack

__all__ = ("Spool",)

_KINDS = ("events", "metrics")
_NAME = re.compile(r"(events|metrics)-([0-9a-f]{16})\.spool")


class _Series:
    """The segments of one kind, oldest first: a `Spooled` queue."""

    def __init__(self, kind: str, directory: Directory, lost: Counter[tuple[str, str]]) -> None:
        self.kind = kind
        self.size = 0
        self.entered = 0
        self.segments: list[Segment] = []
        self._directory = directory
        self._lost = lost
        self._waste: list[str] = []  # files that hold nothing
        self._tail: Segment | None = None  # the last one, if it is ours
        self._end = 0  # records that were ever here
        self._unread = 0
        self._ahead = Queue()  # decoded, not taken
        self._position = 0  # entry number after the last record that was taken
        self._committed = 0
        self._gone = 0  # below it nothing is on disk any more, though some was in flight as that went

    def __len__(self) -> int:
        return self._unread + len(self._ahead)

    # --- the backlog's side ---

    @property
    def first(self) -> int | None:
        """Entry number of the first record; while the disk cannot be read, of the first of its segment."""
        self._load()
        if self._ahead or not self._unread:
            return self._ahead.first
        return next(segment.entry for segment in self.segments if segment.left)

    @property
    def exposed(self) -> int | None:
        """A number no larger than that of the first record in flight whose segment is gone; None if there is none."""
        return self._committed if self._committed < min(self._gone, self._position) else None

    def before(self, mark: int) -> int:
        """Return how many records may have entry numbers below `mark`."""
        first = self.first
        return 0 if first is None else min(len(self), max(mark - first, 0))

    def take(self, most: int, bytes_: float = math.inf, before: float = math.inf) -> tuple[list[Record], Sequence[int]]:
        """Give the first records, of one batch on disk; none while the disk cannot be read."""
        self._load()
        records, entries = self._ahead.take(most, bytes_, before)
        if entries:
            self._position = entries[-1] + 1
        return records, entries

    def untake(self, records: Sequence[Record], entries: Sequence[int]) -> None:
        """Put what was taken at the front again; what is not on disk any more is given up with the rest of its segment."""
        gone = bisect_left(entries, self._gone)
        self._lost["spool", self.kind] += gone
        if gone < len(entries):
            self._ahead.untake(records[gone:], entries[gone:])
            self._position = entries[gone]

    # --- the spool's side ---

    def adopt(self, names: Sequence[str]) -> Found:
        """Take over files of an earlier process, oldest first; change nothing."""
        lost, torn = 0, Torn(0)
        for name in names:
            segment = Segment(self._directory, name, int(name[-22:-6], 16))
            # What a torn end held is told by the next segment; of the last one only by the batch itself, if it can be read.
            lost += max(segment.first - self._end, 0) if name != names[0] else 0
            torn = segment.adopt()
            self._end = max(self._end, segment.end)
            self.entered = max(self.entered, segment.last + 1)
            if segment.left:
                self.segments.append(segment)
                self.size += segment.size
                self._unread += segment.left
            else:
                self._waste.append(name)
        return Found(self._unread, lost + torn.records, torn.unknown)

    def append(self, data: bytes, head: Head, taken: Sequence[int], room: int) -> None:
        """Write one batch, into a new segment if the last has no room for it in `room` bytes.

        `taken` are the entry numbers of its first records, which were handed out; all before these were, too.

        Raises:
            OSError: the disk refuses, and the batch is not there.
        """
        segment = self._tail
        if segment is None or segment.size + len(data) > room:
            self.sweep()
            segment = Segment(self._directory, f"{self.kind}-{self._end:016x}.spool", self._end)
        self.size += segment.write(data, head, len(taken))
        if segment is not self._tail:
            if self._tail is not None:
                self._tail.close()
            self._tail = segment
            self.segments.append(segment)
        if taken:
            self._position = taken[-1] + 1
        self._end = segment.end
        self._unread += head.records - len(taken)

    def commit(self) -> None:
        """Forget on disk what was taken."""
        while self.segments and self._is_done(self.segments[0]):
            self._remove(self.segments.pop(0))
        if self.segments and self._position > max(self._committed, self.segments[0].entry):
            self.segments[0].write_position(self._position)
        self._committed = self._position

    def drop(self) -> None:
        """Give up the oldest segment, with what was read ahead from it."""
        segment = self.segments.pop(0)
        ahead, _ = self._ahead.take(len(self._ahead), before=segment.last + 1)
        self._lost["spool", self.kind] += segment.left + len(ahead)
        self._unread -= segment.left
        if max(self._committed, segment.entry) < self._position:
            self._gone = segment.last + 1
        self._remove(segment)

    def sweep(self) -> None:
        """Remove the files that hold nothing."""
        while self._waste:
            self._directory.remove(self._waste.pop())

    def _load(self) -> None:
        """Decode the next batch, if none is; what is damaged is passed over, and counted."""
        while self._unread and not self._ahead:
            segment = next(segment for segment in self.segments if segment.left)
            try:
                records, entries, lost = segment.read()
            except OSError as error:
                if error.errno in LATER:
                    return
                records, entries, lost = [], [], segment.give_up()
            self._ahead.append(records, entries, sum(record.size for record in records))
            self._unread -= len(records) + lost
            if lost:
                self._lost["spool_damaged", self.kind] += lost

    def _is_done(self, segment: Segment) -> bool:
        return segment.last < self._position or not len(self)

    def _remove(self, segment: Segment) -> None:
        if segment is self._tail:
            self._tail = None
        self.size -= segment.size
        segment.remove()


class Spool:
    """Records on disk, oldest first: of one lane, in a directory of its own. Synchronous; every call may do I/O.

    Holds `limit` bytes of both kinds together. When it is full, the oldest segment of metrics goes, and one of events
    only where there is none of metrics and the new records are events, too. `found` is what an earlier process left.

    Args:
        directory: made, private, if it is missing; removed by `close()` when nothing is left in it.
        limit: bytes on disk.
        segment: bytes of a file, about: what a full spool loses at a time. At most an eighth of the limit.

    Raises:
        ConfigError: the directory cannot be used, or is another lane's.
        OSError: the process has no descriptor left, or worse.
    """

    def __init__(self, directory: Path, *, limit: int = 2**30, segment: int = 4 * 2**20) -> None:
        self.limit = limit
        #: Why `append` wrote less than it was given, the last time: the disk refused, or "spool", it is full.
        self.refused: str = "spool_failed"
        self.error: str = ""  #: what the disk said, the last time it refused
        self._segment = min(segment, limit // 8)
        self._lost: Counter[tuple[str, str]] = Counter()
        self._directory = _lock(directory)
        try:
            found = sorted(match[0] for name in os.listdir(self._directory.fd) if (match := _NAME.fullmatch(name)))
            self._series = tuple(_Series(kind, self._directory, self._lost) for kind in _KINDS)
            parts = [series.adopt([name for name in found if name.startswith(series.kind)]) for series in self._series]
        except BaseException:
            self._directory.close()
            raise
        self.found: Found = Found(*map(sum, zip(*parts, strict=True)))
        self.entered: int = max(series.entered for series in self._series)  #: the first entry number that is free
        _spools.add(self)

    @property
    def queues(self) -> Sequence[_Series]:
        """The events and the metrics, to be taken from."""
        return self._series

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(series.size for series in self._series)

    def append(self, queue: int, records: Sequence[Record], entries: Sequence[int], taken: int = 0) -> int:
        """Write records of one kind (0: events, 1: metrics), batch by batch; return how many are on disk now.

        `entries` are their entry numbers, larger than all of that kind before. The first `taken` of them were handed out
        already, as all before them were: they are kept until `commit()`, and not given again.
        """
        written = 0
        for stop in batches(records):
            data, head = pack(records[written:stop], entries[written:stop])
            if not self._make_room(self._series[queue], len(data) + START):
                self.refused = "spool"
                break
            try:
                self._series[queue].append(data, head, entries[written : min(taken, stop)], self._segment)
            except OSError as error:
                self.refused, self.error = "spool_failed", told(error)
                break
            written = stop
        return written

    def commit(self) -> None:
        """Forget what was taken from both queues and not put back: after a kill it does not come again."""
        for series in self._series:
            series.commit()

    def losses(self) -> Counter[tuple[str, str]]:
        """Return what was lost since the last call, by reason ("spool", "spool_damaged") and kind ("events", "metrics")."""
        lost = Counter(self._lost)
        self._lost.clear()
        return lost

    def close(self) -> None:
        """Let the directory go, and remove it if nothing is left in it. The second call does nothing."""
        if self._directory.fd >= 0:
            for series in self._series:
                series.sweep()
            with suppress(OSError):  # there is more in it
                self._directory.path.rmdir()
            self._let_go()

    def after_fork(self) -> None:
        """Let go in a child: the records are the parent's, and so is the lock, which ends with the last descriptor."""
        self._let_go()

    def _let_go(self) -> None:
        for series in self._series:
            for segment in series.segments:
                segment.close()
        self._directory.close()

    def _make_room(self, series: _Series, need: int) -> bool:
        events, metrics = self._series
        while self.size + need > self.limit:
            if need > self.limit:
                return False
            if metrics.segments:
                metrics.drop()
            elif series is events:
                events.drop()
            else:
                return False
        return True


def _lock(path: Path) -> Directory:
    """Return the directory, which is this process's alone while it is open."""
    while True:
        secure(path)
        directory = Directory(path)
        try:
            fcntl.flock(directory.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            directory.close()
            raise ConfigError(f"{path} is the spool of another lane: give each a directory of its own") from None
        if os.fstat(directory.fd).st_nlink:
            return directory
        directory.close()  # removed meanwhile by the one who had it


_spools: weakref.WeakSet[Spool] = weakref.WeakSet()
after_fork_in_child(lambda: _spools)
