"""One handler with everything that is its own: filter, backlog, batch, timeout, retry and ledger.

The state and its rules are plain methods; `run` only waits, and calls the handler.
"""

import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Self

import anyio

from elastic_events.bus.apart import Calls
from elastic_events.bus.delivery import LONGEST_OPEN, Delivery
from elastic_events.bus.errors import USERS, WouldDeadlock, told
from elastic_events.bus.handler import CallableSink
from elastic_events.bus.ledger import LaneStats, Ledger
from elastic_events.bus.pump import BREATH
from elastic_events.bus.record import Record
from elastic_events.bus.retry import Retry
from elastic_events.bus.signals import Held
from elastic_events.bus.subscription import Subscription
from elastic_events.bus.text import counted
from elastic_events.bus.wakeup import Signal, Wakeup

__all__ = ("Lane",)


async def _at_once(_lane: object) -> None:
    """Wait for nothing: no drain has the lane."""


#: Seconds of work at once, beside others who want the GIL or the loop.
SLICE = 0.0005

#: Seconds that closing a sink may take beside the deadline.
LAST_WORDS = 1.0

#: When to try again to open a sink: for ever, while the lane lives.
REOPEN = Retry(budget=math.inf)


class Lane(Delivery):
    """A task of its own between the pump and one handler. Made by `bus.subscribe`.

    Args:
        name: in `stats()`.
        subscription: the handler, its filter and its options.
        origins: the first sequence of each ring that is the lane's.
        heads: returns the next sequence of each ring.
        ledger: makes the record that the sink gets as its last.
    """

    def __init__(
        self,
        name: str,
        subscription: Subscription,
        origins: Sequence[int],
        heads: Callable[[], Sequence[int]],
        ledger: Callable[[LaneStats], Record],
    ) -> None:
        super().__init__(name, subscription, Ledger(origins, heads))
        self.opened: bool = False
        self.finished: bool = False
        self.end_error: str = ""  # what the sink raised as it was closed: perhaps what it still held is lost
        self.lasting: bool = True  # until the bus ends; what a forked child makes again
        self.waiters = 0  # who wait for all that is in the backlog
        self.is_new: bool = True  # the drain has not handed it anything
        self.ended: Callable[[Lane], Awaitable[None]] = _at_once  # waits for its end; the drain's
        self._last_record = ledger
        self._begun = False  # the sink was opened, or it was tried
        self._held = Held()
        self._flight_from = 0
        self._given_up_from: int | None = None  # the oldest entry that was never settled
        self._hurry: Callable[[bool], object] = getattr(self.sink, "hurry", lambda _on: None)
        self._adopt()
        self.resume()

    def begin_anew(self, origins: Sequence[int], heads: Callable[[], Sequence[int]]) -> None:
        """Begin in a forked child, with its next records: the same object, which somebody may hold.

        A spool is the parent's; in a child the backlog is in memory.
        """
        Lane.__init__(self, self.name, replace(self.subscription, spool=None), origins, heads, self._last_record)

    def resume(self) -> None:
        """Make ready to run in an event loop, also after another one that is gone."""
        self.progress: Wakeup = Wakeup()
        self._again, self._wake = Signal(), Wakeup()
        self.calls: Calls = Calls()
        # What belongs to a loop ends with it; a sink in a thread of its own goes on.
        goes_on = getattr(self.sink, "any_loop", False)
        self.opened, self._begun = self.opened and goes_on, self._begun and goes_on
        self._dead_letters_open = False

    # --- the pump's side: synchronous, never waits ---

    def begin(self) -> None:
        """Note that it is handed what was read before it came, and from now on what the pump reads."""
        self.is_new = False

    def offer(self, ring: int, records: list[Record]) -> None:
        """Take the records of `ring` that are this lane's and that it wants; less than a batch waits for `stir`."""
        self._push(records, ring)

    def lose(self, ring: int, reason: str, first: int, count: int) -> None:
        """Count records that the ring lost before the pump read them."""
        self.ledger.lose(ring, reason, first, count)

    def feed(self, records: Sequence[Record]) -> None:
        """Take records of other processes, which come from no ring of this bus."""
        self.ledger.fed += len(records)
        self._push(records)
        self.stir()

    def stir(self) -> None:
        """Deliver what was offered though it be less than a batch: there is no more just now."""
        if self.backlog:
            self._wake.set()

    def unsubscribe(self) -> None:
        """Accept nothing from now on; end when what was accepted is delivered. Any thread may call it."""
        self.lasting = False
        self.ledger.end_now()

    async def aclose(self) -> None:
        """As `unsubscribe`; wait for the end, and for the handler to be closed. In the loop of the bus.

        Raises:
            WouldDeadlock: called in the lane's own handler.
        """
        if anyio.get_current_task().id in self.calls.tasks:
            raise WouldDeadlock(f"called in the handler of the lane {self.name!r}, it would wait for itself")
        self.unsubscribe()
        await self.ended(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def close(self) -> None:
        """Deliver what is in the backlog, then end."""
        self.closing = True
        self.hasten()

    def hasten(self) -> None:
        """Somebody waits: deliver less than a batch, and make the next attempt now."""
        self._wake.set()
        self._again.set()

    def discard(self) -> None:
        """End at once; what waits is dropped with the lane."""
        self.ledger.end_now()
        self.backlog.clear()
        self.close()

    def abandon(self, reason: str) -> int:
        """Count everything pending as dropped but what a spool keeps; return how much that was."""
        first = self.unsettled_from
        if self._flight and self.backlog.spool is not None:
            self.backlog.untake(self._flight)
            self._flight = ()
        self.backlog.spill()
        self._count_losses()
        waiting = len(self._flight) + self.backlog.clear()
        if waiting and self._given_up_from is None:
            self._given_up_from = first
        self._flight = ()
        self.backlog.close()
        return self.ledger.write_off(reason, waiting)

    def give_out(self) -> None:
        """End now, by a fault of its own: all that is pending is dropped with the reason "lane_died"."""
        self.ledger.end_now()
        self.abandon("lane_died")
        self.finished = True
        self.progress.set()

    # --- what it knows ---

    @property
    def receives(self) -> bool:
        """Whether the pump hands out to it: not before it had what came earlier, nor when it has ended."""
        return not (self.is_new or (self.finished and self.ledger.ended))

    @property
    def unsettled_from(self) -> int:
        """Entry number of the oldest record in flight or in the backlog; all before it are settled."""
        if self._given_up_from is not None:  # and what a recorder still has of it, it must keep
            return self._given_up_from
        return min(self._flight_from, self.backlog.oldest) if self._flight else self.backlog.oldest

    @property
    def safe_from(self) -> int:
        """Entry number of the oldest record that would be lost with this process; all before it are settled or spooled."""
        return (
            self.unsettled_from if self._given_up_from is not None else max(self.unsettled_from, self.backlog.safe_from)
        )

    @property
    def unsettled(self) -> int:
        """Records in the backlog and in flight."""
        return len(self._flight) + len(self.backlog)

    def waiting(self, mark: int) -> int:
        """Return how many that entered before entry number `mark` are not settled."""
        return self.backlog.before(mark, self._flight)

    def stats(self) -> LaneStats:
        """Return the ledger as it stands."""
        return self.ledger.stats(
            waiting=self.unsettled,
            backlog_bytes=self.backlog.size,
            circuit=self.circuit,
            last_error="; ".join(filter(None, (self.last_error, self._disk_error))),
        )

    def __repr__(self) -> str:
        stats = self.stats()
        why = f" ({stats.why_lost})" if stats.lost else ""
        return f"<Lane {self.name}, {stats.delivered} delivered, {stats.lost} lost{why}, {stats.pending} pending>"

    # --- the task ---

    async def run(self, failed: Callable[[BaseException], object] = lambda _error: None) -> None:
        """Open the sink, deliver until closed, write the ledger, close the sink.

        Tells `failed` why records were given up, if the subscription wants that.
        """
        if self.finished:
            return
        self._end_block = failed
        self._failed = failed if self.subscription.on_failure == "raise" else lambda _error: None
        if await self._open():
            if self._flight:  # of a task that was cut short
                await self._deliver(self._flight)
            begun = 0.0
            while await self._ready():
                hasty = self._hasty or 2 * len(self.backlog) > self.backlog.records
                self._hurry(hasty)
                if time.monotonic() - begun > SLICE:
                    await anyio.sleep(0 if hasty else BREATH)
                    begun = time.monotonic()
                if batch := self._next_batch():
                    await self._deliver(batch)
                else:  # a spool that cannot be read just now
                    await self._pause(1.0)
            self._hurry(True)
            await self._last_words()
            await self.shut()
        self.finished = True
        self.progress.set()

    async def shut(self) -> None:
        """Close the sink; one that hangs gets `LAST_WORDS` seconds."""
        await self._close_sink()
        with anyio.move_on_after(LAST_WORDS, shield=True):
            grave = self.subscription.dead_letters
            if grave is not None and self._dead_letters_open:
                self._dead_letters_open = False
                await self._attempt(grave.aclose)

    async def _open(self) -> bool:
        """Open the sink, trying again until it is open; closing wakes for one last attempt."""
        failures = 0
        while not self.opened:
            last = self.closing
            await self._close_sink()  # what an attempt opened that asyncio cut short
            self._begun = True
            error = await self._try(self.sink.open, limit=LONGEST_OPEN)
            if error is None:
                self.opened = True
                break
            self.last_error: str = told(error)
            await self._close_sink()
            self.refusal = error
            self.tell()
            if isinstance(error, USERS):
                self._fail(error)
            self.backlog.spill()
            self.progress.set()
            if last:
                return False
            failures += 1
            if not self.closing:
                await self._pause(REOPEN.wait(failures, 0.0) or 0.0)
        self.refusal = None
        self.progress.set()
        return True

    async def _close_sink(self) -> None:
        if self._begun:
            opened, self.opened = self.opened, False
            with anyio.move_on_after(LAST_WORDS, shield=True):
                error = await self._attempt(self.sink.aclose)
                if opened and isinstance(error, Exception):  # not that somebody cancelled it
                    self.end_error = told(error)
            self._begun = False  # not where asyncio cut it short: then it is called again

    def _next_batch(self) -> Sequence[Record]:
        """Move the next batch from the backlog into flight."""
        self._flight_from = self.backlog.oldest
        self._flight = self.backlog.take(self.subscription.batch_size, self.subscription.batch_bytes)
        self._count_losses()
        return self._flight

    async def _ready(self) -> bool:
        """Wait for records; False when the lane is closed and its backlog empty."""
        while not self.backlog:
            if self.closing:
                return False
            await self._wake.wait()
        if self.subscription.linger:
            await self._fill()
        return True

    async def _fill(self) -> None:
        with anyio.move_on_after(self.subscription.linger):
            while len(self.backlog) < self.subscription.batch_size and not self._hasty:
                await self._wake.wait()

    @property
    def _hasty(self) -> bool:
        return self.closing or self.waiters > 0

    async def _last_words(self) -> None:
        """Write the lane's own ledger as the last record, so that a reader can tell a complete file from a cut one.

        A function gets none, nor does a sink with a filter that does not want it, unless it is kept for such a reader.
        What a roll-up still holds goes before it.
        """
        if isinstance(self.sink, CallableSink):
            return
        if (pass_on_rest := getattr(self.sink, "pass_on_rest", None)) is not None:
            await self._attempt(pass_on_rest)
        record = self._last_record(self.stats())
        if getattr(self.sink, "is_read_back", False) or self._accepts(record):
            await self._attempt(self.sink.write, [record])

    def _accepts(self, record: Record) -> bool:
        accepts = self.subscription.accepts
        try:
            return accepts is None or bool(accepts(record))
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001 - the user's predicate, which may know nothing of a ledger
            return False

    # --- inside ---

    def _push(self, records: Sequence[Record], ring: int | None = None) -> None:
        """Put what is wanted of `records` into the backlog; where that fails, what found no place in it is lost, and counted."""
        try:
            if ring is not None:
                records = self.ledger.take(ring, records)
            if (accepts := self.subscription.accepts) is not None:
                records = [record for record in records if self._wants(accepts, record)]
            self.backlog.push(records)
            self._count_losses()
        except BaseException as error:  # noqa: BLE001 - no memory, say: the other lanes get theirs, and this one the next
            self._held.hold(error)
            self._count_losses()
            if astray := self.ledger.astray(self.unsettled):
                self.ledger.dropped["lane_fault"] += astray
                self.last_error = f"the backlog: {told(error)}"
        if len(self.backlog) >= self.subscription.batch_size:
            self._wake.set()
        self._held.release()

    def _adopt(self) -> None:
        """Accept what an earlier process left in the spool."""
        found = self.backlog.adopt()
        self.ledger.fed += found.records + found.lost
        if found.lost:
            self.ledger.dropped["spool_damaged"] += found.lost
        if found.unknown:
            self.last_error = (
                f"the spool is damaged in {counted(found.unknown, 'place')}: how many records were there, nobody knows"
            )

    @property
    def _disk_error(self) -> str:
        """Why records were lost that the spool should have kept, while the sink was away for a reason of its own."""
        spool = self.backlog.spool
        return f"spool: {spool.error}" if spool is not None and self.ledger.dropped["spool_failed"] else ""

    def _count_losses(self) -> None:
        for reason, count in self.backlog.losses().items():
            self.ledger.dropped[reason] += count

    def _wants(self, accepts: Callable[[Record], bool], record: Record) -> bool:
        try:
            if accepts(record):
                return True
            self.ledger.filtered += 1
        except BaseException as error:  # noqa: BLE001 - the user's predicate; its fault costs this lane this record
            self._held.hold_a_signals(error)
            self.ledger.dropped["filter_error"] += 1
            self.last_error = f"filter: {told(error)}"
        return False
