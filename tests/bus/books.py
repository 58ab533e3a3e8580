"""Books that a test keeps of each record and each lane, by the rules that README gives, and not by the code's sums."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from elastic_events.bus.pump import GRACE

__all__ = ("Id", "LaneBook", "LatestBook", "RingBook")


class Id(NamedTuple):
    """One record: its ring (0 events, 1 metrics) and its number in it."""

    ring: int
    seq: int


class RingBook:
    """What was recorded in one ring, and what each of its slots holds: a number, None, or -1 for what nobody can read."""

    def __init__(self, ring: int, capacity: int) -> None:
        self.ring = ring
        self.names: list[str] = []
        self.times: list[int] = []
        self.slots: list[int | None] = [None] * capacity
        self.position = 0  #: how far the pump has come; what it reads at a look is its own affair
        self.late: dict[int, float] = {}  #: numbers that were passed before they were stored, and since when

    def take(self, name: str) -> int:
        """Give the next number to a record."""
        self.names.append(name)
        self.times.append(-1)
        return len(self.names) - 1

    def store(self, seq: int, time: int) -> None:
        """Store a record in its slot, whatever that holds."""
        self.slots[seq % len(self.slots)] = seq
        self.times[seq] = time

    def damage(self, seq: int) -> None:
        """Make the slot of a number unreadable."""
        self.slots[seq % len(self.slots)] = -1

    def fate(self, seq: int) -> str:
        """Return what somebody finds who looks for `seq`: "whole", "missing", or how it was lost."""
        found = self.slots[seq % len(self.slots)]
        if found is None or 0 <= found < seq:
            return "missing"
        return "whole" if found == seq else "undecodable" if found < 0 else "overwritten"

    def read(self, until: int, now: float) -> tuple[list[Id], dict[Id, str]]:
        """Read up to `until`, what is late as well; return what was found, in order, and what is lost, and how."""
        fates: list[tuple[int, str]] = []
        for seq, since in list(self.late.items()):
            fate = self.fate(seq)
            if fate != "missing" or now - since >= GRACE:
                del self.late[seq]
                fates.append((seq, fate))
        kept = min(max(self.position, len(self.names) - len(self.slots)), until)
        fates += [(seq, "overwritten") for seq in range(self.position, kept)]
        self.position = until
        fates += [(seq, self.fate(seq)) for seq in range(kept, until)]
        self.late |= {seq: now for seq, fate in fates if fate == "missing" and seq >= kept}
        found = [Id(self.ring, seq) for seq, fate in fates if fate == "whole"]
        lost = {
            Id(self.ring, seq): "interrupted" if fate == "missing" else fate
            for seq, fate in fates
            if fate != "whole" and seq not in self.late
        }
        return found, lost

    def again(self, first: int) -> tuple[list[Id], dict[Id, str]]:
        """Return what somebody finds and misses who comes later, from `first` on, of what was read."""
        kept = min(max(first, len(self.names) - len(self.slots)), self.position)
        fates = [(seq, "overwritten" if seq < kept else self.fate(seq)) for seq in range(first, self.position)]
        fates = [pair for pair in fates if pair[0] not in self.late]
        found = [Id(self.ring, seq) for seq, fate in fates if fate == "whole"]
        lost = {Id(self.ring, seq): fate.replace("missing", "interrupted") for seq, fate in fates if fate != "whole"}
        return found, lost


class LaneBook:
    """One lane: what waits, what its sink has in hand, and one fate for each record that is settled."""

    def __init__(
        self, origins: Sequence[int], wants: Callable[[Id], bool], backlog: int, *, newest: bool = False
    ) -> None:
        self.origins = tuple(origins)
        self.ends: tuple[int, ...] | None = None
        self.wants = wants
        self.backlog = backlog
        self.newest = newest  #: whether a full backlog loses the newest
        self.waiting: tuple[deque[tuple[int, Id]], ...] = (deque(), deque())
        self.entered = 0
        self.flight: list[Id] = []
        self.fates: dict[Id, str] = {}
        self.wrong: list[str] = []  #: what no record may meet

    def accepted(self, heads: Sequence[int]) -> set[Id]:
        """Return what was recorded while it was subscribed."""
        ends = heads if self.ends is None else self.ends
        return {Id(ring, seq) for ring in (0, 1) for seq in range(self.origins[ring], ends[ring])}

    def mine(self, one: Id) -> bool:
        """Whether a record was recorded while it was subscribed."""
        return one.seq >= self.origins[one.ring] and (self.ends is None or one.seq < self.ends[one.ring])

    def end(self, heads: Sequence[int]) -> None:
        """Accept nothing more; of two ends the first counts."""
        self.ends = self.ends or tuple(heads)

    def settle(self, one: Id, fate: str) -> None:
        """Give a record its fate, which is its only one."""
        if one in self.fates or not self.mine(one):
            self.wrong.append(f"{one} was {self.fates.get(one, 'not accepted')}, and now is {fate}")
        self.fates[one] = fate

    def lose(self, lost: dict[Id, str]) -> None:
        """Note what the rings lost."""
        for one, fate in filter(lambda pair: self.mine(pair[0]), lost.items()):
            self.settle(one, fate)

    def offer(self, found: Iterable[Id]) -> None:
        """Take what the lane is handed, in this order."""
        for one in filter(self.mine, found):
            if self.wants(one):
                self.push(one)
                self.entered += 1
            else:
                self.settle(one, "filtered")

    def push(self, one: Id) -> None:
        """Let a record wait."""
        queue = self.waiting[one.ring]
        if len(queue) == self.backlog and self.newest:
            return self.settle(one, "backlog")
        if len(queue) == self.backlog:
            self.settle(queue.popleft()[1], "backlog")
        return queue.append((self.entered, one))

    def take_all(self) -> list[Id]:
        """Hand out what waits, in the order in which it came."""
        both = sorted(self.waiting[0]) + sorted(self.waiting[1])
        for queue in self.waiting:
            queue.clear()
        return [one for _, one in sorted(both)]

    def given(self, batch: list[Id]) -> None:
        """Note what the sink was called with: what waited, from the first on, or some of what it has in hand, in order."""
        if not self.flight:
            self.flight = self.take_all()
            if batch != self.flight[: len(batch)]:
                self.wrong.append(f"the sink got {batch}, and {self.flight} waited")
        elif batch != [one for one in self.flight if one in set(batch)]:
            self.wrong.append(f"the sink got {batch}, and has {self.flight}")

    def done(self, batch: Iterable[Id], fate: str) -> None:
        """Note what became of what the sink had in hand."""
        for one in batch:
            self.settle(one, fate)
        self.flight = [one for one in self.flight if one not in self.fates]

    def give_up(self, heads: Sequence[int], fate: str) -> None:
        """Give all that is left this fate."""
        for one in self.accepted(heads) - set(self.fates):
            self.settle(one, fate)
        self.flight = self.take_all()[:0]

    def sums(self) -> Counter[str]:
        """Return how many records met each fate."""
        return Counter(self.fates.values())


class LatestBook(LaneBook):
    """A lane that wants the latest record of each name: it has the turn of the one whose place it takes."""

    def __init__(
        self, origins: Sequence[int], wants: Callable[[Id], bool], backlog: int, key: Callable[[Id], object]
    ) -> None:
        super().__init__(origins, wants, backlog)
        self.key = key
        self.latest: dict[object, Id] = {}

    def push(self, one: Id) -> None:
        """Take the place of the one that waits under its key, or let the oldest fall out."""
        key = self.key(one)
        if key in self.latest:
            self.settle(self.latest[key], "coalesced")
        self.latest[key] = one
        if len(self.latest) > self.backlog:
            self.settle(self.latest.pop(next(iter(self.latest))), "backlog")

    def take_all(self) -> list[Id]:
        """Hand out what waits, by turns."""
        waiting, self.latest = list(self.latest.values()), {}
        return waiting
