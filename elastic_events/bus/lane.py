"""One handler with everything that is its own: filter, backlog, batch, timeout, retry and ledger.

The state and its rules are plain methods; `run` only waits, and calls the handler.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import anyio

from elastic_events.bus.backlog import Backlog
from elastic_events.bus.breath import SLICE, TURN, haste, turns
from elastic_events.bus.errors import PERMANENT
from elastic_events.bus.handler import CallableSink, Sink
from elastic_events.bus.ledger import LaneStats
from elastic_events.bus.record import Record
from elastic_events.bus.retry import Retry
from elastic_events.bus.wakeup import Wakeup

__all__ = ("Lane",)

#: Turns that a lane may take in one, at most.
LONGEST = 8

#: Seconds that closing a sink may take beside the deadline.
LAST_WORDS = 1.0


class Lane:
    """A task of its own between the pump and one handler. Made by `bus.subscribe`."""

    def __init__(
        self,
        name: str,
        sink: Sink,
        *,
        accepts: Callable[[Record], Any] | None,
        backlog: Backlog,
        batch_size: int,
        batch_bytes: int,
        linger: float,
        timeout: float | None,
        retry: Retry,
        dead_letters: Sink | None,
        origins: Sequence[int],
        heads: Callable[[], Sequence[int]],
        ledger: Callable[[LaneStats], Record],
    ) -> None:
        self.name = name
        self.sink = sink
        self.backlog = backlog
        self.batch_size = batch_size
        self.batch_bytes = batch_bytes
        self.linger = linger
        self.timeout = timeout
        self.retry = retry
        self.closing = False  # deliver the backlog, then end
        self.opened = False
        self.finished = False
        self.last_error = ""
        self._accepts = accepts
        self._dead_letters = dead_letters
        self._origins = list(origins)  # first sequence of each ring that is this lane's
        self._ends: Sequence[float] = [math.inf] * len(self._origins)  # first that is no longer
        self._seen = list(origins)  # sequences handed out so far, lost ones included: as many as the ledger holds
        self._heads = heads
        self._ledger = ledger
        self._fed = 0
        self._delivered = 0
        self._failed = 0
        self._dead_lettered = 0
        self._dead_letters_open = False
        self._filtered = 0
        self._dropped: Counter[str] = Counter()
        self._in_flight = 0
        self._in_flight_from = 0
        self._retries = 0
        self._failures = 0  # in a row, across batches: what opens the circuit
        self._wake = Wakeup()
        self.progress = Wakeup()  # set whenever records were settled

    # --- the pump's side: synchronous, never waits ---

    def offer(self, ring: int, records: list[Record]) -> None:
        """Take the records of `ring` that are this lane's and that it wants; less than a batch waits for `stir`."""
        first, end = self._origins[ring], self._ends[ring]
        seqs = [record.seq for record in records]  # in order of time; an interrupted emitter's may not be that of seq
        if min(seqs) < first or max(seqs) >= end:
            records = [record for record in records if first <= record.seq < end]
        self._seen[ring] += len(records)
        self._push(records)

    def lose(self, ring: int, reason: str, first: int, count: int) -> None:
        """Count records that the ring lost before the pump read them."""
        mine = int(min(first + count, self._ends[ring])) - max(first, self._origins[ring])
        if mine > 0:
            self._seen[ring] += mine
            self._dropped[reason] += mine

    def feed(self, records: Sequence[Record]) -> None:
        """Take records of other processes, which come from no ring of this bus."""
        self._fed += len(records)
        self._push(records)
        self.stir()

    def stir(self) -> None:
        """Deliver what was offered though it be less than a batch: there is no more just now."""
        if self.backlog:
            self._wake.set()

    def retire(self) -> None:
        """Accept nothing from now on; end when what was accepted is delivered."""
        if all(end == math.inf for end in self._ends):
            self._ends = list(self._heads())

    def end_at(self, heads: Sequence[int]) -> None:
        """Accept nothing from `heads` on: the bus is closed."""
        self._ends = [min(end, head) for end, head in zip(self._ends, heads, strict=True)]

    @property
    def retired(self) -> bool:
        """Whether the pump has handed out all that a retiring lane accepted."""
        return all(seen >= end for seen, end in zip(self._seen, self._ends, strict=True))

    def close(self) -> None:
        """Deliver what is in the backlog, then end."""
        self.closing = True
        self._wake.set()

    def abandon(self, reason: str) -> int:
        """Count everything pending as dropped; return how much that was."""
        gone = self._in_flight + self.backlog.clear()
        self._in_flight = 0
        unread = self._unread()
        self._seen = [origin + self._span(ring) for ring, origin in enumerate(self._origins)]
        if gone + unread:
            self._dropped[reason] += gone + unread
        return gone + unread

    # --- the ledger ---

    @property
    def accepted(self) -> int:
        """Records emitted while subscribed, and fed."""
        return self._fed + sum(map(self._span, range(len(self._origins))))

    @property
    def unsettled_from(self) -> int:
        """Entry number of the oldest record in flight or in the backlog; all before it are settled."""
        return min(self._in_flight_from, self.backlog.oldest) if self._in_flight else self.backlog.oldest

    @property
    def unsettled(self) -> int:
        """Records in the backlog and in flight."""
        return self._in_flight + len(self.backlog)

    @property
    def circuit(self) -> str:
        """Whether the handler is tried with every batch or only probed."""
        return "open" if self._failures >= self.retry.opens_after else "closed"

    def stats(self) -> LaneStats:
        """Return the ledger as it stands."""
        return LaneStats(
            accepted=self.accepted,
            delivered=self._delivered,
            failed=self._failed,
            dropped=dict(self._dropped),
            filtered=self._filtered,
            pending=self._unread() + self.unsettled,
            retries=self._retries,
            circuit=self.circuit,
            dead_lettered=self._dead_lettered,
            backlog_bytes=self.backlog.size,
            last_error=self.last_error,
        )

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Lane {self.name}, {stats.delivered} delivered, {stats.lost} lost, {stats.pending} pending>"

    # --- the task ---

    async def open(self) -> None:
        """Open the sink; `ConfigError` and the like reach the caller."""
        await self.sink.open()
        self.opened = True

    async def run(self) -> None:
        """Deliver until closed, then write the ledger and close the sink."""
        begun = 0.0
        try:
            while await self._ready():
                haste.set(self._haste())
                if time.monotonic() - begun > SLICE * min(haste.get(), LONGEST):
                    await turns()
                    begun = time.monotonic()
                await self._deliver(self._next_batch())
            await self._last_words()
        finally:
            await self.shut()
            self.finished = True
            self._notify()

    def _haste(self) -> float:
        """How much longer turns the lane needs, being behind; without any where records would soon be lost."""
        behind = len(self.backlog)
        if self.closing or 2 * behind > self.backlog.records:
            return math.inf
        return 1 + behind // (4 * max(self.batch_size, TURN))

    async def shut(self) -> None:
        """Close the sink; one that hangs gets `LAST_WORDS` seconds."""
        self.opened = False
        with anyio.move_on_after(LAST_WORDS, shield=True):
            await self._attempt(self.sink.aclose)
            if self._dead_letters is not None and self._dead_letters_open:
                await self._attempt(self._dead_letters.aclose)

    def _next_batch(self) -> list[Record]:
        """Move the next batch from the backlog into flight."""
        self._in_flight_from = self.backlog.oldest
        batch = self.backlog.take(self.batch_size, self.batch_bytes)
        self._in_flight = len(batch)
        return batch

    async def _ready(self) -> bool:
        """Wait for records; False when the lane is closed and its backlog empty."""
        while not self.backlog:
            if self.closing:
                return False
            await self._wake.wait()
        if self.linger and len(self.backlog) < self.batch_size and not self.closing:
            await self._fill()
        return True

    async def _fill(self) -> None:
        with anyio.move_on_after(self.linger):
            while len(self.backlog) < self.batch_size and not self.closing:
                await self._wake.wait()

    async def _deliver(self, batch: Sequence[Record]) -> None:
        """Deliver one batch: try, try again within the budget, split what is refused until the poison stands alone."""
        started = anyio.current_time()
        first_failures = self._failures
        while (error := await self._attempt(self.sink.write, batch)) is not None:
            self.last_error = f"{type(error).__name__}: {error}"
            if isinstance(error, PERMANENT):
                return await self._refused(batch, getattr(error, "rejected", ()))
            self._failures += 1
            tries = self._failures - first_failures
            wait = self._wait(tries, anyio.current_time() - started, getattr(error, "retry_after", None))
            if wait is None:
                return await self._give_up(batch)
            self._retries += 1
            await anyio.sleep(wait)
        self._failures = 0
        self._delivered += len(batch)
        return self._settle(batch)

    def _wait(self, tries: int, spent: float, asked: float | None) -> float | None:
        """Ask the policy; with the circuit open the backoff goes on where the last batch left it."""
        if self.retry.wait(tries, spent) is None:
            return None
        return self.retry.wait(self._failures if self.retry.attempts is None else tries, spent, asked)

    async def _refused(self, batch: Sequence[Record], rejected: Sequence[Record]) -> None:
        self._failures = 0  # the handler answers: this is about the records
        if rejected:
            refused = {id(record) for record in rejected}
            accepted = [record for record in batch if id(record) not in refused]
            self._delivered += len(accepted)
            self._settle(accepted)
            await self._give_up([record for record in batch if id(record) in refused])
        elif len(batch) == 1:
            await self._give_up(batch)
        else:
            middle = len(batch) // 2
            await self._deliver(batch[:middle])
            await self._deliver(batch[middle:])

    async def _attempt(self, call: Callable[..., Any], *args: Any) -> BaseException | None:
        """Call the handler once; return what it raised.

        The one broad except of the core: a handler may raise anything, `CancelledError` and `SystemExit` included, and it
        costs this batch only (F27, F32). A cancellation of our own scope is not a failure and goes on.
        """
        try:
            with anyio.move_on_after(self.timeout) as scope:
                await call(*args)
                return None
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            if isinstance(error, anyio.get_cancelled_exc_class()) and anyio.current_effective_deadline() == -math.inf:
                raise
            return error
        return TimeoutError(f"no answer within {self.timeout} s") if scope.cancelled_caught else None

    def _settle(self, batch: Sequence[Record]) -> None:
        """Take a batch whose outcome was booked out of flight."""
        self._in_flight -= len(batch)
        self._notify()

    async def _give_up(self, batch: Sequence[Record]) -> None:
        """Book a batch as failed, and keep it in the dead letters."""
        if self._dead_letters is not None and batch and await self._bury(self._dead_letters, batch):
            self._dead_lettered += len(batch)
        self._failed += len(batch)
        self._settle(batch)

    async def _bury(self, grave: Sink, batch: Sequence[Record]) -> bool:
        error = None if self._dead_letters_open else await self._attempt(grave.open)
        if error is None:
            self._dead_letters_open = True
            error = await self._attempt(grave.write, batch)
        if error is not None:
            self.last_error = f"dead letters: {type(error).__name__}: {error}"
        return error is None

    async def _last_words(self) -> None:
        """Write the lane's own ledger as the last record, so that a reader can tell a complete file from a cut one."""
        if isinstance(self.sink, CallableSink) or not self.opened:
            return
        await self._attempt(self.sink.write, [self._ledger(self.stats())])

    # --- inside ---

    def _push(self, records: Sequence[Record]) -> None:
        if (accepts := self._accepts) is not None:
            records = [record for record in records if self._wants(accepts, record)]
        if fell := self.backlog.push(records):
            self._dropped["backlog"] += fell
        if len(self.backlog) >= self.batch_size:
            self._wake.set()

    def _wants(self, accepts: Callable[[Record], Any], record: Record) -> bool:
        try:
            if accepts(record):
                return True
            self._filtered += 1
        except Exception as error:  # noqa: BLE001 - the user's predicate; its fault costs this lane this record
            self._dropped["filter_error"] += 1
            self.last_error = f"filter: {type(error).__name__}: {error}"
        return False

    def _unread(self) -> int:
        return self.accepted - self._fed - sum(self._seen) + sum(self._origins)

    def _span(self, ring: int) -> int:
        end = min(self._heads()[ring], self._ends[ring])
        return int(end) - self._origins[ring]

    def _notify(self) -> None:
        self.progress.set()
