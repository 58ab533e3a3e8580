"""From a batch to its outcome: try, try again, split what is refused, give up, bury."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import anyio

from elastic_events.bus.apart import Calls
from elastic_events.bus.backlog import Backlog
from elastic_events.bus.errors import PERMANENT, HandlerFailed, PermanentError, asked_for, refused_by, told
from elastic_events.bus.handler import Sink
from elastic_events.bus.latest import Latest
from elastic_events.bus.ledger import Ledger
from elastic_events.bus.record import Record
from elastic_events.bus.signals import ends_the_program
from elastic_events.bus.spread import call_each
from elastic_events.bus.subscription import Subscription
from elastic_events.bus.wakeup import Signal, Wakeup

__all__ = ("LONGEST_OPEN", "Delivery")

#: Seconds that an attempt to open a sink may take, whatever its writes may.
LONGEST_OPEN = 60.0

#: Seconds between two attempts of a lane that closes: its sink may be there again before the deadline.
LAST_WAIT = 1.0


def _nobody() -> None:
    """Tell nobody."""


class Delivery:
    """The part of a lane that calls the handler, and books what became of each record."""

    def __init__(self, name: str, subscription: Subscription, ledger: Ledger) -> None:
        self.name = name
        self.subscription = subscription
        self.sink: Sink = subscription.sink
        self.backlog: Backlog | Latest = subscription.make_backlog()
        self.ledger = ledger
        self.closing = False  # deliver the backlog, then end
        self.calls: Calls = Calls()
        self.last_error: str = ""
        self.progress: Wakeup = Wakeup()  # set whenever records were settled
        self._again = Signal()  # somebody waits: the next attempt is now, also where it is about to wait for one
        self._flight: Sequence[Record] = ()  # taken out of the backlog, and not settled yet
        self._failures = 0  # in a row, across batches: what opens the circuit
        self._alone = 0  # records refused in a row, each by itself: so many are no poison, the sink refuses everything
        self.refusal: BaseException | None = None  # why the sink is not open; None before the first attempt as well
        self.tell: Callable[[], object] = _nobody  # somebody should look at once: it may be over before the next look
        self._failed: Callable[[BaseException], object] = lambda _error: None
        self._end_block: Callable[[BaseException], object] = self._failed
        self._dead_letters_open = False

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

    async def _deliver(self, batch: Sequence[Record]) -> None:
        """Deliver one batch: try, try again within the budget, split what is refused until the poison stands alone.

        Of a sink that refuses everything the next record is a probe, and the others wait: that is no fault of theirs.
        """
        if self.subscription.concurrency > 1:
            return await self._deliver_each(batch)
        while len(batch) > 1 and self._alone >= self.subscription.retry.opens_after:
            await self._deliver(batch[:1])
            batch = batch[1:]
        started = anyio.current_time()
        first_failures = self._failures
        while (error := await self._try(self.sink.write, batch)) is not None:
            self.last_error = told(error)
            if isinstance(error, PERMANENT):
                return await self._refused(batch, error)
            self._failures += 1
            self.tell()
            if self.circuit == "open":  # it may be long: what waits is safe on disk
                self.backlog.spill()
            tries = self._failures - first_failures
            wait = self._wait(tries, anyio.current_time() - started, asked_for(error))
            if wait is None:
                return await self._give_up(batch, error)
            self.ledger.retries += 1
            await self._pause(wait)
        self._failures = self._alone = 0
        self.ledger.delivered += len(batch)
        return self._settle(batch)

    async def _deliver_each(self, batch: Sequence[Record]) -> None:
        """Deliver one batch, several records at a time: each has its own outcome, and those of one key their order."""
        one, left = self.subscription, list(batch)
        tries: Counter[int] = Counter()  # of each record: one that waited behind another has its own budget
        since: dict[int, float] = {}
        while left:
            started = anyio.current_time()
            self._again.clear()
            failed, untried = await call_each(self._call_one, left, one.concurrency, one.key, self._end_block)
            if any(not isinstance(error, PERMANENT) for _, error in failed):
                self._failures += 1
                self.tell()
            else:
                self._failures = 0
            again, waits = set(map(id, untried)), []
            for record, error in failed:
                self.last_error = told(error)
                tries[id(record)] += 1
                spent = anyio.current_time() - since.setdefault(id(record), started)
                asked = asked_for(error)
                wait = None if isinstance(error, PERMANENT) else self._wait(tries[id(record)], spent, asked)
                if wait is None:
                    await self._give_up([record], error)
                else:
                    again.add(id(record))
                    waits.append(wait)
            left = [record for record in left if id(record) in again]
            if waits:
                self.ledger.retries += 1
                await self._pause(max(waits))

    async def _call_one(self, record: Record) -> BaseException | None:
        error = await self._attempt(self.sink.write, [record])
        if error is None:
            self.ledger.delivered += 1
            self._settle([record])
        return error

    async def _refused(self, batch: Sequence[Record], error: BaseException) -> None:
        self._failures = 0  # the handler answers: this is about the records
        refused = refused_by(error, batch)
        if refused:
            named = set(map(id, refused))
            accepted = [record for record in batch if id(record) not in named]
            self._alone = 0
            self.ledger.delivered += len(accepted)
            self._settle(accepted)
            await self._give_up(refused, error)
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

    async def _try(self, call: Callable[..., Any], *args: Any, limit: float = math.inf) -> BaseException | None:
        """As `_attempt`; a flush that begins from now on ends the wait that may follow."""
        self._again.clear()
        return await self._attempt(call, *args, limit=limit)

    async def _attempt(self, call: Callable[..., Any], *args: Any, limit: float = math.inf) -> BaseException | None:
        """Call the handler once; return what it raised, or that it took too long."""
        timeout = min(self.subscription.timeout or math.inf, limit)
        with anyio.move_on_after(timeout):
            error = await self.calls.make(call, *args)
            if error is not None and ends_the_program(error):
                self._end_block(error)
            return error
        return TimeoutError(f"no answer within {timeout:g} s")

    def _wait(self, tries: int, spent: float, asked: float | None) -> float | None:
        """Ask the policy; with the circuit open the backoff goes on where the last batch left it."""
        retry = self.subscription.retry
        if retry.wait(tries, spent) is None:
            return None
        return retry.wait(self._failures if retry.attempts is None else tries, spent, asked)

    async def _pause(self, seconds: float) -> None:
        """Wait before another attempt: until a flush or the close, which makes all later waits short."""
        with anyio.move_on_after(min(seconds, LAST_WAIT) if self.closing else seconds):
            await self._again.wait()

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
        self.ledger.fail(error, len(batch))
        self.tell()
        self._settle(batch)
        self._fail(error)

    def _fail(self, error: BaseException) -> None:
        failure = HandlerFailed(self.name, error)
        failure.__cause__ = error
        self._failed(failure)

    async def _bury(self, grave: Sink, batch: Sequence[Record]) -> bool:
        error = None if self._dead_letters_open else await self._attempt(grave.open, limit=LONGEST_OPEN)
        if error is None:
            self._dead_letters_open = True
            error = await self._attempt(grave.write, batch)
        if error is not None:
            self.last_error = f"dead letters: {told(error)}"
        return error is None
