"""One handler with everything that is its own: filter, backlog, batch, timeout, retry and ledger.

The state and its rules are plain methods; `run` only waits, and calls the handler.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import anyio

from elastic_events.bus.errors import PERMANENT, PermanentError
from elastic_events.bus.handler import CallableSink, Sink
from elastic_events.bus.ledger import LaneStats, Ledger
from elastic_events.bus.pump import BREATH
from elastic_events.bus.record import Record
from elastic_events.bus.retry import Retry
from elastic_events.bus.subscription import Subscription
from elastic_events.bus.wakeup import Wakeup

__all__ = ("Lane",)

#: Seconds of work at once, beside others who want the GIL or the loop.
SLICE = 0.0005

#: Seconds that closing a sink may take beside the deadline.
LAST_WORDS = 1.0

#: Seconds that an attempt to open a sink may take, whatever its writes may.
LONGEST_OPEN = 60.0

#: When to try again to open a sink: for ever, while the lane lives.
REOPEN = Retry(budget=math.inf)


class Lane:
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
        self.name = name
        self.subscription = subscription
        self.sink: Sink = subscription.sink
        self.backlog = subscription.make_backlog()
        self.ledger = Ledger(origins, heads)
        self.closing = False  # deliver the backlog, then end
        self.opened = False
        self.finished = False
        self.refusal: BaseException | None = None  # why the sink is not open; None before the first attempt as well
        self.hasty = False  # somebody waits for all that is in the backlog
        self.last_error = ""
        self.tell: Callable[[], object] = lambda: (
            None
        )  # somebody should look at once: what fails may be over before the next look
        self._last_record = ledger
        self._begun = False  # the sink was opened, or it was tried
        self._dead_letters_open = False
        self._flight: Sequence[Record] = ()  # taken out of the backlog, and not settled yet
        self._flight_from = 0
        self._given_up_from: int | None = None  # the oldest entry that was never settled
        self._failures = 0  # in a row, across batches: what opens the circuit
        self._alone = 0  # records refused in a row, each by itself: so many are no poison, the sink refuses everything
        self._hurry: Callable[[bool], object] = getattr(self.sink, "hurry", lambda _on: None)
        self._adopt()
        self.resume()

    def resume(self) -> None:
        """Make ready to run in an event loop, also after another one that is gone."""
        self.progress = Wakeup()  # set whenever records were settled
        self._wake = Wakeup()
        self._closes = Wakeup()
        # What belongs to a loop ends with it; a sink in a thread of its own goes on.
        self.opened = self.opened and getattr(self.sink, "any_loop", False)
        self._dead_letters_open = False

    # --- the pump's side: synchronous, never waits ---

    def offer(self, ring: int, records: list[Record]) -> None:
        """Take the records of `ring` that are this lane's and that it wants; less than a batch waits for `stir`."""
        self._push(self.ledger.take(ring, records))

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

    def retire(self) -> None:
        """Accept nothing from now on; end when what was accepted is delivered."""
        self.ledger.end_now()

    def close(self) -> None:
        """Deliver what is in the backlog, then end. Wakes a wait for another attempt: a last one."""
        self.closing = True
        self._wake.set()
        self._closes.set()

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

    # --- what it knows ---

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

    @property
    def circuit(self) -> str:
        """Whether the handler is tried with every batch or only probed."""
        return "open" if max(self._failures, self._alone) >= self.subscription.retry.opens_after else "closed"

    @property
    def trouble(self) -> str:
        """What keeps the lane from delivering, for a sentence; "" where it delivers, or has failed once only."""
        if self.refusal is not None:
            return "cannot be opened, trying again"
        if self._alone >= self.subscription.retry.opens_after:
            return "refuses every record, one is tried now and then"
        if self._failures > 1:
            return "fails" if self.subscription.retry.attempts == 1 else "fails, trying again"
        return ""

    def stats(self) -> LaneStats:
        """Return the ledger as it stands."""
        return self.ledger.stats(
            waiting=self.unsettled,
            backlog_bytes=self.backlog.size,
            circuit=self.circuit,
            last_error=self.last_error,
        )

    def __repr__(self) -> str:
        stats = self.stats()
        why = f" ({stats.why_lost})" if stats.lost else ""
        return f"<Lane {self.name}, {stats.delivered} delivered, {stats.lost} lost{why}, {stats.pending} pending>"

    # --- the task ---

    async def run(self) -> None:
        """Open the sink, deliver until closed, write the ledger, close the sink."""
        if self.finished:
            return
        if await self._open():
            if self._flight:  # of a task that was cut short
                await self._deliver(self._flight)
            begun = 0.0
            while await self._ready():
                hasty = self.closing or self.hasty or 2 * len(self.backlog) > self.backlog.records
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
        with anyio.move_on_after(LAST_WORDS, shield=True):
            await self._close_sink()
            grave = self.subscription.dead_letters
            if grave is not None and self._dead_letters_open:
                self._dead_letters_open = False
                await self._attempt(grave.aclose)

    async def _open(self) -> bool:
        """Open the sink, trying again until it is open; closing wakes for one last attempt."""
        failures = 0
        while not self.opened:
            last = self.closing
            self._begun = True
            error = await self._attempt(self.sink.open, limit=LONGEST_OPEN)
            if error is None:
                self.opened = True
                break
            self.last_error = f"{type(error).__name__}: {error}"
            with anyio.move_on_after(LAST_WORDS, shield=True):
                await self._close_sink()
            self.refusal = error
            self.tell()
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
            self._begun = self.opened = False
            await self._attempt(self.sink.aclose)

    async def _pause(self, seconds: float) -> None:
        """Wait before another attempt; the close ends the wait, once."""
        with anyio.move_on_after(seconds):
            if self.closing:
                await anyio.sleep(seconds)
            await self._closes.wait()

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
        if self.subscription.linger and len(self.backlog) < self.subscription.batch_size and not self.closing:
            await self._fill()
        return True

    async def _fill(self) -> None:
        with anyio.move_on_after(self.subscription.linger):
            while len(self.backlog) < self.subscription.batch_size and not self.closing:
                await self._wake.wait()

    async def _deliver(self, batch: Sequence[Record]) -> None:
        """Deliver one batch: try, try again within the budget, split what is refused until the poison stands alone.

        Of a sink that refuses everything the next record is a probe, and the others wait: that is no fault of theirs.
        """
        while len(batch) > 1 and self._alone >= self.subscription.retry.opens_after:
            await self._deliver(batch[:1])
            batch = batch[1:]
        started = anyio.current_time()
        first_failures = self._failures
        while (error := await self._attempt(self.sink.write, batch)) is not None:
            self.last_error = f"{type(error).__name__}: {error}"
            if isinstance(error, PERMANENT):
                return await self._refused(batch, error)
            self._failures += 1
            self.tell()
            if self.circuit == "open":  # it may be long: what waits is safe on disk
                self.backlog.spill()
            tries = self._failures - first_failures
            wait = self._wait(tries, anyio.current_time() - started, getattr(error, "retry_after", None))
            if wait is None:
                return await self._give_up(batch, error)
            self.ledger.retries += 1
            await self._pause(wait)
        self._failures = self._alone = 0
        self.ledger.delivered += len(batch)
        return self._settle(batch)

    def _wait(self, tries: int, spent: float, asked: float | None) -> float | None:
        """Ask the policy; with the circuit open the backoff goes on where the last batch left it."""
        retry = self.subscription.retry
        if retry.wait(tries, spent) is None:
            return None
        return retry.wait(self._failures if retry.attempts is None else tries, spent, asked)

    async def _refused(self, batch: Sequence[Record], error: BaseException) -> None:
        self._failures = 0  # the handler answers: this is about the records
        refused = {id(record) for record in getattr(error, "rejected", ())}
        if refused:
            accepted = [record for record in batch if id(record) not in refused]
            self._alone = 0
            self.ledger.delivered += len(accepted)
            self._settle(accepted)
            await self._give_up([record for record in batch if id(record) in refused], error)
        elif len(batch) == 1:
            await self._give_up(batch, error)
            await self._doubt(error)
        else:
            middle = len(batch) // 2
            await self._deliver(batch[:middle])
            await self._deliver(batch[middle:])

    async def _doubt(self, error: BaseException) -> None:
        """Note a record that was refused alone; with the circuit open, wait before the next. A closing lane cannot."""
        retry = self.subscription.retry
        self._alone += isinstance(error, PermanentError)
        if self._alone >= retry.opens_after and not self.closing and len(self.backlog) + len(self._flight) > 0:
            self.backlog.spill()
            self.progress.set()
            await self._pause(retry.wait(self._alone - retry.opens_after + 1, 0.0) or 0.0)

    async def _attempt(self, call: Callable[..., Any], *args: Any, limit: float = math.inf) -> BaseException | None:
        """Call the handler once; return what it raised.

        The one broad except of the core: a handler may raise anything, `CancelledError` and `SystemExit` included, and it
        costs this batch only (F27, F32). A cancellation of our own scope is not a failure and goes on.
        """
        timeout = min(self.subscription.timeout or math.inf, limit)
        try:
            with anyio.move_on_after(timeout) as scope:
                await call(*args)
                return None
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            if isinstance(error, anyio.get_cancelled_exc_class()) and anyio.current_effective_deadline() == -math.inf:
                raise
            return error
        return TimeoutError(f"no answer within {timeout:g} s") if scope.cancelled_caught else None

    def _settle(self, batch: Sequence[Record]) -> None:
        """Take records whose outcome was booked out of flight."""
        if len(batch) == len(self._flight):
            self._flight = ()
        else:
            done = {id(record) for record in batch}
            self._flight = [record for record in self._flight if id(record) not in done]
        if not self._flight:
            self.backlog.settle()
        self.progress.set()

    async def _give_up(self, batch: Sequence[Record], error: BaseException) -> None:
        """Book a batch as failed, and keep it in the dead letters."""
        grave = self.subscription.dead_letters
        if grave is not None and batch and await self._bury(grave, batch):
            self.ledger.dead_lettered += len(batch)
        self.ledger.failed[type(error).__name__] += len(batch)
        self.tell()
        self._settle(batch)

    async def _bury(self, grave: Sink, batch: Sequence[Record]) -> bool:
        error = None if self._dead_letters_open else await self._attempt(grave.open, limit=LONGEST_OPEN)
        if error is None:
            self._dead_letters_open = True
            error = await self._attempt(grave.write, batch)
        if error is not None:
            self.last_error = f"dead letters: {type(error).__name__}: {error}"
        return error is None

    async def _last_words(self) -> None:
        """Write the lane's own ledger as the last record, so that a reader can tell a complete file from a cut one."""
        if not isinstance(self.sink, CallableSink):
            await self._attempt(self.sink.write, [self._last_record(self.stats())])

    # --- inside ---

    def _push(self, records: Sequence[Record]) -> None:
        if (accepts := self.subscription.accepts) is not None:
            records = [record for record in records if self._wants(accepts, record)]
        self.backlog.push(records)
        self._count_losses()
        if len(self.backlog) >= self.subscription.batch_size:
            self._wake.set()

    def _adopt(self) -> None:
        """Accept what an earlier process left in the spool."""
        found = self.backlog.adopt()
        self.ledger.fed += found.records + found.lost
        if found.lost:
            self.ledger.dropped["spool_damaged"] += found.lost
        if found.unknown:
            self.last_error = (
                f"{found.unknown} places of the spool are damaged: how many records were there, nobody knows"
            )

    def _count_losses(self) -> None:
        for reason, count in self.backlog.losses().items():
            self.ledger.dropped[reason] += count

    def _wants(self, accepts: Callable[[Record], Any], record: Record) -> bool:
        try:
            if accepts(record):
                return True
            self.ledger.filtered += 1
        except Exception as error:  # noqa: BLE001 - the user's predicate; its fault costs this lane this record
            self.ledger.dropped["filter_error"] += 1
            self.last_error = f"filter: {type(error).__name__}: {error}"
        return False
