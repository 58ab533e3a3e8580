"""The backlog of a lane that wants the latest record of each key only: a progress display, a table of ranks."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from elastic_events.bus.backlog import Found, Spooling
from elastic_events.bus.record import Record
from elastic_events.bus.signals import Held
from elastic_events.bus.weight import weigh

__all__ = ("Latest",)


class _Waiting(NamedTuple):
    record: Record
    entry: int
    weight: int  # bytes of memory


class Latest:
    """As `Backlog`, in memory; a record takes the place of the one that waits under its key, which is counted as "coalesced".

    It takes that one's turn as well: a key that changes all the time is delivered as often as any other. So the order of
    different keys is that of their turns.
    """

    spool: Spooling | None = None

    def __init__(self, records: int, bytes_: int, key: Callable[[Record], Hashable]) -> None:
        self.records = records
        self.bytes = bytes_
        self.size: int = 0
        self.entered: int = 0
        self._key = key
        self._waiting: dict[Hashable, _Waiting] = {}
        self._in_flight: dict[int, int] = {}  # id of the record -> entry number
        self._lost: Counter[str] = Counter()
        self._held = Held()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def oldest(self) -> int:
        """Entry number of the first record still here, or of the next to come."""
        return min((one.entry for one in self._waiting.values()), default=self.entered)

    safe_from = oldest

    def before(self, mark: int, flight: Sequence[Record]) -> int:
        """Return how many that entered before entry number `mark` wait, or are in `flight`."""
        waiting = sum(one.entry < mark for one in self._waiting.values())
        return waiting + sum(self._in_flight.get(id(record), mark) < mark for record in flight)

    def adopt(self) -> Found:
        """Return that nothing was left by an earlier process."""
        return Found()

    def losses(self) -> Counter[str]:
        """Return how many records fell out since the last call, by reason: "coalesced", "backlog" or "key_error"."""
        lost, self._lost = self._lost, Counter()
        return lost

    def push(self, records: Sequence[Record]) -> int:
        """Take `records`; return how many fell out for them."""
        before = self._lost.total()
        for record in records:
            try:
                key = self._key(record)
                old = self._waiting.get(key)
            except BaseException as error:  # noqa: BLE001 - the user's function; its fault costs this record
                self._held.hold_a_signals(error)
                self._lost["key_error"] += 1
                continue
            if old is not None:
                self._lost["coalesced"] += 1
                self.size -= old.weight
            self._put(self._waiting, key, record, self.entered if old is None else old.entry)
            self.entered += 1
            while len(self) > self.records or (self.size > self.bytes and len(self) > 1):
                self._drop("backlog")
        self._held.release()
        return self._lost.total() - before

    def spill(self) -> int:
        """Return how many stay in memory: all."""
        return len(self)

    def take(self, most: int, _bytes: int) -> list[Record]:
        """Remove and return the records whose turn it is, up to `most`."""
        keys = list(self._waiting)[:most]
        taken = [self._waiting.pop(key) for key in keys]
        self.size -= sum(one.weight for one in taken)
        self._in_flight = {id(one.record): one.entry for one in taken}
        return [one.record for one in taken]

    def settle(self) -> None:
        """Forget the batch in flight."""
        self._in_flight.clear()

    def untake(self, batch: Sequence[Record]) -> None:
        """Put `batch` back, unless a later record of its key has come."""
        back: dict[Hashable, _Waiting] = {}
        for record in batch:
            key = self._key(record)
            if key in self._waiting:
                self._lost["coalesced"] += 1
            else:
                self._put(back, key, record, self._in_flight[id(record)])
        self._waiting = {**back, **self._waiting}
        self._in_flight.clear()

    def clear(self) -> int:
        """Drop everything; return how many records that were."""
        count = len(self._waiting)
        self._waiting.clear()
        self.size = 0
        return count

    def close(self) -> None:
        """Settle."""
        self.settle()

    def _drop(self, reason: str) -> None:
        gone = self._waiting.pop(next(iter(self._waiting)))
        self.size -= gone.weight
        self._lost[reason] += 1

    def _put(self, waiting: dict[Hashable, _Waiting], key: Hashable, record: Record, entry: int) -> None:
        waiting[key] = one = _Waiting(record, entry, weigh([record]))
        self.size += one.weight
