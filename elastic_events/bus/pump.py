"""The part of the drain that reads the rings: a cursor a ring, arithmetic for what was lost, one decode a record."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import repeat
from operator import add, attrgetter, itemgetter
from typing import Any, Protocol

import msgspec
from msgspec.structs import force_setattr

from elastic_events.bus.codec import DECODE_FLAT, KINDS, decode
from elastic_events.bus.context import Context
from elastic_events.bus.record import Record, record_of
from elastic_events.bus.ring import END, Pipe
from elastic_events.bus.signals import Held

__all__ = (
    "BREATH",
    "FEW",
    "GRACE",
    "MANY",
    "Cursor",
    "Make",
    "PipedRing",
    "Pump",
    "Receiver",
    "or_nothing",
    "pace",
    "to_records",
)

#: Seconds an interrupted emitter has to fill its slot before its record counts as lost.
GRACE = 1.0

#: Records of a look when nobody minds how long it takes.
MANY = 1024

#: Records of a look beside others: reading them holds the GIL for a quarter of a millisecond.
FEW = 100

#: Seconds to sleep between two looks: really, since a thread that lets go of the GIL and asks again at once has it again.
BREATH = 0.001

#: Names of channels that are known, at most, and characters of one.
CHANNELS = 1024

#: Share of a ring that may wait before the drain hastens.
CALM = 0.25

#: How many times more a look takes out of a full ring, and how many times sooner the next comes.
HASTE = 32


class ReadableRing(Protocol):
    """What a cursor reads: a ring in memory or in a mapped file."""

    capacity: int

    @property
    def head(self) -> int:
        """The next sequence number."""
        ...

    def frames(self, first: int, stop: int) -> Sequence[bytes | None]:
        """Return what the slots of `first` to `stop` hold, each its frame, an older one, a newer one, or None."""
        ...

    def why_gone(self, seq: int) -> str:
        """Return how the record `seq` was lost: "overwritten" or "interrupted"."""
        ...


class PipedRing(ReadableRing, Protocol):
    """A ring that can be emitted to and read: in memory, or in a mapped file."""

    numbers: Iterator[int]

    @property
    def pipe(self) -> Pipe:
        """What the hot path needs."""
        ...


class Receiver(Protocol):
    """What the pump hands out to: a lane."""

    def lose(self, ring: int, reason: str, first: int, count: int) -> None:
        """Count records of `ring` that are gone, from sequence `first`."""

    def begin(self) -> None:
        """Note that what was read before it came is handed to it now."""

    def offer(self, ring: int, records: list[Record]) -> None:
        """Take the records this lane wants; never waits, and raises nothing but Ctrl-C, when they have their outcome."""


_SEQ, _MONOTONIC, _FIRST = attrgetter("seq"), attrgetter("monotonic_ns"), itemgetter(0)

#: Makes the records of frames, or raises where one of them is missing or damaged.
Make = Callable[[Sequence[Any]], list[Record]]


def pace(fill: float, pause: float, interval: float) -> tuple[int, float]:
    """Return how many records a look takes at most, and the seconds to rest once nothing waits.

    `fill` is the share of the fullest ring that waits, `pause` the last rest: it grows by degrees only, so that a ring that
    was found nearly full is looked at often until the flood is over.

    Beside a thread that trains and holds the GIL, half a millisecond of work at once makes a step of a millisecond late:
    CPython hands the GIL over after 5 ms, to whoever asks. So looks are short as long as the rings have room.
    """
    haste = HASTE ** min(max(fill - CALM, 0.0) / (1 - CALM), 1.0)
    return int(FEW * haste), min(2 * pause, interval / haste)


class Cursor:
    """How far one reader has come in one ring. Reading takes nothing: many cursors may walk one ring.

    `late` holds the sequences that were taken but not yet stored when the cursor passed; they are looked at again until
    they arrive, or are lost as "interrupted" after the grace time. The records behind them do not wait.
    """

    def __init__(self, ring: ReadableRing) -> None:
        self.ring = ring
        self.position: int = 0
        self.late: dict[int, float] = {}
        self.lost: list[tuple[str, int, int]] = []  #: what the last look found lost: reason, first sequence, count
        self._start = 0  # where it began; a record before that is one that came late

    def behind(self, head: int | None = None) -> int:
        """Return how many records up to `head` are neither read nor given up. Any thread may ask."""
        head = self.ring.head if head is None else head
        return max(head - self.position, 0) + sum(seq < head for seq in list(self.late))

    def look(self, most: int, now: float, make: Make, until: int = END) -> list[Record]:
        """Read up to `most` records, none from `until` on, and note what is lost; `now` is monotonic seconds."""
        ring, self.lost = self.ring, []
        found: list[Record] = []
        if self.late:
            for seq, since in list(self.late.items()):
                self._read(seq, ring.frames(seq, seq + 1)[0], found, make, since, now)
        head = ring.head
        gone = min(head - ring.capacity, until)  # beyond that it is another look's to find lost
        if gone > self.position:
            self.lost.append(("overwritten", self.position, gone - self.position))
            self.position = gone
        start = self._start = self.position
        stop = self.position = max(min(head, start + most, until), start)
        frames = ring.frames(start, stop)
        records = _whole(frames, make)
        if list(map(_SEQ, records)) == list(range(start, stop)):
            return found + records if found else records
        for seq, frame in enumerate(frames, start):
            self._read(seq, frame, found, make, now, now)
        return found

    def unread(self, found: list[Record], horizon: int) -> None:
        """Take the records after monotonic `horizon` out of `found` again: reading took nothing."""
        young = (i for i, record in enumerate(found) if record.monotonic_ns > horizon and record.seq >= self._start)
        keep = next(young, None)
        if keep is None:
            return
        self.position = found[keep].seq
        del found[keep:]
        self.lost = [loss for loss in self.lost if loss[1] < self.position]
        self.late = {seq: since for seq, since in self.late.items() if seq < self.position}

    def _read(self, seq: int, frame: bytes | None, found: list[Record], make: Make, since: float, now: float) -> None:
        records = [] if frame is None else _whole([frame], make)
        if records and type(records[0].seq) is not int:
            records = []  # a whole frame of somebody else's
        stored = records[0].seq if records else -1
        if stored == seq:
            found += records
        elif frame is not None and not records:  # one record lost, not the drain
            self.lost.append(("undecodable", seq, 1))
        elif stored > seq:
            self.lost.append(("overwritten", seq, 1))
        else:
            if now - since < GRACE:
                self.late[seq] = since
                return
            self.lost.append((self.ring.why_gone(seq), seq, 1))
        self.late.pop(seq, None)


@contextmanager
def or_nothing(cursors: Sequence[Cursor]) -> Iterator[None]:
    """Let a block that fails have read nothing, for want of memory say: the next look reads the same again."""
    before = [(cursor.position, cursor.late.copy()) for cursor in cursors]
    try:
        yield
    except BaseException:
        for cursor, (position, late) in zip(cursors, before, strict=True):
            cursor.position, cursor.late = position, late
        raise


def _whole(frames: Sequence[bytes | None], make: Make) -> list[Record]:
    """Return the records of `frames`, or none if there is one that cannot be read."""
    try:
        return make(frames)
    except Exception:  # noqa: BLE001 - whatever it is: the caller looks at each
        return []


class Pump:
    """Reads both rings and hands each record, decoded once, to every receiver.

    Reading, handing out and advancing the cursor is one synchronous step: a cancellation falls before or after it, never
    between (F25). Where reading fails, nothing was read; handing out does not.
    """

    def __init__(
        self,
        rings: Sequence[ReadableRing],
        context: Context,
        wall_clock: Callable[[], int] = time.time_ns,
        on_channel: Callable[[str, int], bool] = lambda _channel, _seq: False,
    ) -> None:
        self.cursors: list[Cursor] = [Cursor(ring) for ring in rings]
        self.context = context
        self.bounds: list[Sequence[int]] = []  #: heads that somebody waits for: a look ends there before it goes on
        self._wall_clock = wall_clock
        pipe = getattr(rings[0], "pipe", None)  # a file that is read has none, and the host's clock
        self._monotonic: Callable[[], int] = pipe[3] if pipe else time.monotonic_ns
        self._on_channel = on_channel  # says whether the channel has a receiver of its own from now on
        self._served = {"null"}
        self._channels = {"null"}  # those, and others that were asked for

    def heads(self) -> list[int]:
        """Return the next sequence number of each ring."""
        return [cursor.ring.head for cursor in self.cursors]

    def skip(self) -> list[int]:
        """Let the next record be the first that is read; return the sequence numbers."""
        for cursor in self.cursors:
            cursor.position = cursor.ring.head
        return [cursor.position for cursor in self.cursors]

    def behind(self, heads: Sequence[int] | None = None) -> int:
        """Return how many records up to `heads` wait in the rings."""
        return sum(map(Cursor.behind, self.cursors, heads or self.heads()))

    def fill(self) -> float:
        """Return the share of the ring that waits to be read, of the ring where that is most."""
        return max(cursor.behind() / cursor.ring.capacity for cursor in self.cursors)

    def look(self, receivers: Callable[[], Iterable[Receiver]], now: float, most: int = MANY) -> int:
        """Move up to `most` records a ring to `receivers`; return how many came."""
        with or_nothing(self.cursors):
            looks = self._read(now, most)
            runs, to = _in_time_order(looks), list(receivers())
        self._hand_out(looks, runs, to, self.cursors)
        return sum(map(len, looks.values()))

    def _read(self, now: float, most: int) -> dict[int, list[Record]]:
        """Return up to `most` records of each ring that has any, as far as they may be handed out together."""
        # The emitters record monotonic time only. A step of the wall clock shows here at the next look (F61).
        offset = self._wall_clock() - self._monotonic()
        make = partial(to_records, context=self.context, offset=offset)
        ends = self._ends()
        looks = {
            index: cursor.look(most, now, make, ends[index])
            for index, cursor in enumerate(self.cursors)
            if cursor.behind()
        }
        for index, records in looks.items():
            if records and self.cursors[index].position < min(self.cursors[index].ring.head, ends[index]):
                # Cut short: what is younger in the other ring waits its turn.
                for other, younger in looks.items():
                    if other != index:
                        self.cursors[other].unread(younger, records[-1].monotonic_ns)
        for record in looks.get(0, ()):
            if record.channel not in self._channels:
                self._meet(record.channel, record.seq)
        return looks

    def replay(self, receiver: Receiver, origins: Sequence[int]) -> None:
        """Hand `receiver` alone what was read before it came, from the sequences `origins` on, as far as the rings have it."""
        looks: dict[int, list[Record]] = {}
        past: list[Cursor] = []
        make = partial(to_records, context=self.context, offset=self._wall_clock() - self._monotonic())
        for index, (origin, cursor) in enumerate(zip(origins, self.cursors, strict=True)):
            past.append(one := Cursor(cursor.ring))
            one.position = min(origin, cursor.position)
            found = one.look(END, 0.0, make, cursor.position) if origin < cursor.position else []
            # Those that the pump still waits for come, or are lost, by its own look; what it has given up is lost here, too.
            looks[index] = [record for record in found if record.seq not in cursor.late]
            one.lost += [("interrupted", seq, 1) for seq in one.late]
            if cursor.late:
                each = ((why, seq) for why, first, count in one.lost for seq in range(first, first + count))
                one.lost = [(why, seq, 1) for why, seq in each if seq not in cursor.late]
        runs = _in_time_order(looks)
        receiver.begin()
        self._hand_out(looks, runs, [receiver], past)

    def _meet(self, channel: str, seq: int) -> None:
        """Ask for a channel; names made of data that nobody serves are forgotten again."""
        if self._on_channel(channel, seq):  # which may add a receiver
            self._served.add(channel)
        if len(self._channels) >= CHANNELS:
            self._channels = self._served.copy()
        if len(channel) <= CHANNELS:
            self._channels.add(channel)

    def _ends(self) -> Sequence[int]:
        """Return how far each ring may be read now."""
        for heads in self.bounds:
            if any(cursor.position < head for cursor, head in zip(self.cursors, heads, strict=True)):
                return heads
        return [END] * len(self.cursors)

    @staticmethod
    def _hand_out(
        looks: dict[int, list[Record]],
        runs: list[tuple[int, list[Record]]],
        receivers: list[Receiver],
        cursors: Sequence[Cursor],
    ) -> None:
        for index in looks:
            for reason, first, count in cursors[index].lost:
                for receiver in receivers:
                    receiver.lose(index, reason, first, count)
        held = Held()
        for index, records in runs:
            for receiver in receivers:
                with held:
                    receiver.offer(index, records)
        held.release()


def to_records(frames: Sequence[bytes], context: Context, offset: int, *, recovered: bool = False) -> list[Record]:
    """Return the records of `frames`; `offset` is wall minus monotonic time in nanoseconds."""
    # Of one length, since what a longer one holds beyond its kind's fields would be taken for who speaks, and the rest.
    firsts = set(map(_FIRST, frames))
    flat = DECODE_FLAT.get(firsts.pop()) if len(firsts) == 1 else None
    if flat is not None:
        with suppress(msgspec.ValidationError):
            records = list(map(flat, frames))
            # A call a record would cost as much as the rest.
            _stamp(records, "time_ns", map(add, map(_MONOTONIC, records), repeat(offset)))
            _stamp(records, "context", repeat(context))
            _stamp(records, "size", map(len, frames))
            if recovered:
                _stamp(records, "recovered", repeat(True))
            return records
    rows = list(map(decode, frames))
    return [
        record_of(
            KINDS[len(row)],
            int(row[0]),
            row[1] + offset,
            row[1],
            row[2] if type(row[2]) is str else str(row[2]),
            row[3] if type(row[3]) is str else str(row[3]),
            row[4:],
            context,
            len(frame),
            recovered,
        )
        for row, frame in zip(rows, frames, strict=True)
    ]


def _stamp(records: list[Record], name: str, values: Iterable[Any]) -> None:
    """Set what no frame holds, of records that nobody has seen yet."""
    any(map(force_setattr, records, repeat(name), values))


def _in_time_order(looks: dict[int, list[Record]]) -> list[tuple[int, list[Record]]]:
    """Return runs of one ring's records, so that a lane sees events and metrics in the order they were recorded."""
    filled = [(index, records) for index, records in looks.items() if records]
    if len(filled) < 2:
        return filled
    runs: list[tuple[int, list[Record]]] = []
    for record, index in sorted(
        ((record, index) for index, records in filled for record in records), key=lambda pair: pair[0].monotonic_ns
    ):
        if runs and runs[-1][0] == index:
            runs[-1][1].append(record)
        else:
            runs.append((index, [record]))
    return runs
