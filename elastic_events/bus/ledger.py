"""The ledger: what a lane accepted and what became of it, exact at any quiet moment."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import NamedTuple

from elastic_events.bus.context import Context
from elastic_events.bus.errors import Undelivered
from elastic_events.bus.record import Record, record_of
from elastic_events.bus.redact import cut_secrets

__all__ = ("BusStats", "FlushResult", "LaneStats", "Ledger")

_SEQ = attrgetter("seq")

#: Names of errors that are counted apart, characters of one, and what all others count as.
NAMES = 32
NAME = 80
OTHERS = "others"


class LaneStats(NamedTuple):
    """The ledger of one lane: accepted = delivered + failed + sum(dropped) + filtered + pending."""

    accepted: int  #: records emitted while the lane was subscribed, and records fed to it
    delivered: int  #: records its handler took
    failed: int  #: records its handler refused or failed on until the retry budget was spent
    dropped: dict[str, int]  #: records lost before the handler saw them, by reason
    filtered: int  #: records it does not want
    pending: int  #: records in the rings, in its backlog and in flight
    retries: int  #: attempts after a first failed one
    circuit: str  #: "closed", or "open" while the handler keeps failing and is only probed
    dead_lettered: int  #: of the failed, those kept in the dead letters
    backlog_bytes: int  #: that the backlog takes in memory, and on disk where it has a spool
    last_error: str  #: the last failure, or ""
    failed_by: dict[str, int]  #: the failed, by the name of the error

    @property
    def lost(self) -> int:
        """Records that the handler never took: failed and dropped, but for those that a later one of their key replaced."""
        return self.failed + sum(self.dropped.values()) - self.dropped.get("coalesced", 0)

    @property
    def why_lost(self) -> str:
        """How many records failed, by the error's name, and how many were dropped, by reason; "" where none is lost."""
        by = ", ".join(f"{count} {name}" for name, count in self.failed_by.items())
        kept = f"{self.dead_lettered} kept in the dead letters" if self.dead_lettered else ""
        more = "; ".join(filter(None, (by, kept)))
        failed = [f"{self.failed} failed{f' ({more})' if more else ''}"] if self.failed else []
        dropped = {reason: count for reason, count in self.dropped.items() if count and reason != "coalesced"}
        return ", ".join(failed + [f"{count} {reason}" for reason, count in dropped.items()])

    @property
    def balanced(self) -> bool:
        """Whether the ledger adds up; it always does while nobody emits and nothing is being delivered."""
        fates = self.delivered + self.failed + sum(self.dropped.values()) + self.filtered + self.pending
        return self.accepted == fates

    def as_record(self, lane: str, seq: int, time_ns: int, monotonic_ns: int, context: Context) -> Record:
        """Return it as what a sink gets last, from which a reader tells a complete file from a cut one."""
        names = ("accepted", "delivered", "failed", "filtered", "pending", "retries", "dead_lettered")
        body = {"lane": lane, "dropped": self.dropped, **{name: getattr(self, name) for name in names}}
        if self.failed:
            body |= {"failed_by": self.failed_by, "last_error": cut_secrets(self.last_error)}
        return record_of("ledger", seq, time_ns, monotonic_ns, "bus.ledger", lane, (body,), context)


class BusStats(NamedTuple):
    """One look at a bus."""

    state: str  #: "new", "open", "closing", "closed", "forked", or "dead" when its drain ended by itself
    accepted: int  #: records emitted on this bus
    closed: int  #: of these, those emitted after it closed
    pending: int  #: records still in the rings
    lanes: dict[str, LaneStats]  #: by lane name
    errors: int  #: faults inside the drain itself; anything but 0 is a bug worth a report
    recorder: str  #: path of the flight recorder's file, or ""


class FlushResult(NamedTuple):
    """What of all that was recorded before `flush` or `close` was not delivered in time. True when nothing is left."""

    undelivered: dict[str, int]  #: lane name -> records still pending, or given up at close

    def __bool__(self) -> bool:
        return not any(self.undelivered.values())

    def raise_if_undelivered(self) -> None:
        """Do nothing where all is delivered.

        Raises:
            Undelivered: something is left.
        """
        if not self:
            raise Undelivered(self.undelivered)


class Ledger:
    """The sums of one lane.

    What it accepted is no count but arithmetic: the records of each ring from the first that is the lane's to the first
    that no longer is. So nothing is counted where records are emitted, and a loss shows as a difference.
    """

    def __init__(self, origins: Sequence[int], heads: Callable[[], Sequence[int]]) -> None:
        self.fed = 0  #: records of other processes, which come from no ring of this bus
        self.delivered = 0
        self.filtered = 0
        self.retries = 0
        self.dead_lettered = 0
        self.failed: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self._heads = heads
        self.origins: list[int] = list(origins)  #: first sequence of each ring that is the lane's
        self._ends: Sequence[float] = [math.inf] * len(self.origins)  # first that is no longer
        self._seen = list(origins)  # sequences handed out so far, lost ones included

    def take(self, ring: int, records: Sequence[Record]) -> Sequence[Record]:
        """Return those of `records` that are the lane's, and note that the pump has handed them out."""
        first, end = self.origins[ring], self._ends[ring]
        # In order of time; an interrupted emitter's may not be that of seq.
        if (first and min(map(_SEQ, records)) < first) or (end != math.inf and max(map(_SEQ, records)) >= end):
            # Counted before there is a list of them, for which there may be no memory.
            self._seen[ring] += sum(first <= seq < end for seq in map(_SEQ, records))
            return [record for record in records if first <= record.seq < end]
        self._seen[ring] += len(records)
        return records

    def lose(self, ring: int, reason: str, first: int, count: int) -> None:
        """Count the lane's share of `count` records that are gone from sequence `first` on."""
        mine = int(min(first + count, self._ends[ring])) - max(first, self.origins[ring])
        if mine > 0:
            self._seen[ring] += mine
            self.dropped[reason] += mine

    def fail(self, error: BaseException, count: int) -> None:
        """Count `count` records that failed of `error`: by its name, unless there are too many names."""
        name = type(error).__name__[:NAME]
        self.failed[name if name in self.failed or len(self.failed) < NAMES else OTHERS] += count

    def write_off(self, reason: str, count: int) -> int:
        """Count `count` pending records, and those still in the rings, as dropped; return how many that were."""
        gone = count + self.unread
        self._seen = [origin + self._span(ring) for ring, origin in enumerate(self.origins)]
        if gone:
            self.dropped[reason] += gone
        return gone

    def end_at(self, heads: Sequence[int]) -> None:
        """Accept nothing from `heads` on."""
        self._ends = [min(end, head) for end, head in zip(self._ends, heads, strict=True)]

    def end_now(self) -> None:
        """Accept nothing from now on; the second call changes nothing."""
        if all(end == math.inf for end in self._ends):
            self._ends = list(self._heads())

    @property
    def ended(self) -> bool:
        """Whether the pump has handed out all that was accepted until the end."""
        return all(seen >= end for seen, end in zip(self._seen, self._ends, strict=True))

    @property
    def lost(self) -> int:
        """Records that failed, and that were dropped, but for those that a later one of their key replaced."""
        return self.failed.total() + self.dropped.total() - self.dropped["coalesced"]

    @property
    def accepted(self) -> int:
        """Records emitted while subscribed, and fed."""
        return self.fed + sum(map(self._span, range(len(self.origins))))

    @property
    def unread(self) -> int:
        """Records accepted that are still in the rings."""
        return self.accepted - self.fed - sum(self._seen) + sum(self.origins)

    def astray(self, waiting: int) -> int:
        """Return how many that were handed out have no outcome, and are not among the `waiting`: none, but for a fault."""
        handed_out = self.fed + sum(self._seen) - sum(self.origins)
        return handed_out - self.delivered - self.failed.total() - self.dropped.total() - self.filtered - waiting

    def stats(self, *, waiting: int, backlog_bytes: int, circuit: str, last_error: str) -> LaneStats:
        """Return the sums; `waiting` records are in the backlog or in flight."""
        return LaneStats(
            accepted=self.accepted,
            delivered=self.delivered,
            failed=self.failed.total(),
            dropped=dict(self.dropped),
            filtered=self.filtered,
            pending=self.unread + waiting,
            retries=self.retries,
            circuit=circuit,
            dead_lettered=self.dead_lettered,
            backlog_bytes=backlog_bytes,
            last_error=last_error,
            failed_by=dict(self.failed),
        )

    def _span(self, ring: int) -> int:
        end = min(self._heads()[ring], self._ends[ring])
        return int(end) - self.origins[ring]
