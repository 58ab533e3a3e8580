"""A fate for each record, under every order of emitting, interrupting, failing, looking, flushing and closing.

The machine keeps books of its own (`books.py`). What it takes from the bus is how far the pump has come at each look.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import anyio
import anyio.from_thread
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from elastic_events import Event, EventBus, EventSource, PermanentError, Record, Retry
from elastic_events.bus.codec import encode
from elastic_events.bus.errors import PERMANENT
from elastic_events.bus.ledger import BusStats
from elastic_events.bus.pump import BREATH, GRACE
from elastic_events.testing import ListSink
from tests.bus.books import Id, LaneBook, LatestBook, RingBook

#: Attempts that a batch has.
ATTEMPTS = 2

#: What a sink may do: take the batch, or raise this after it kept half of it.
TEMPERS: dict[str, Callable[[Sequence[Record]], BaseException | None]] = {
    "well": lambda _: None,
    "away": lambda _: OSError("down"),
    "refuses": lambda _: PermanentError("poison"),
    "refuses some": lambda batch: PermanentError("poison", rejected=batch[::2]),
    "a bug": lambda _: ValueError("bug"),
    "exits": lambda _: SystemExit(3),
    "is closed": lambda _: GeneratorExit(),
    "is cancelled": lambda _: asyncio.CancelledError(),
    "dies": lambda _: BaseException("dead"),
}


def ids(records: Sequence[Record]) -> list[Id]:
    """Return which records these are."""
    return [Id("em".index(one.ring), one.seq) for one in records]


class Witness(ListSink):
    """A sink that writes into the book of its lane what it was given and what it said to that."""

    def __init__(self, book: LaneBook, temper: Callable[[], str] = lambda: "well") -> None:
        super().__init__()
        self.book = book
        self.temper = temper
        self.gate: anyio.Event | None = None  # it hangs before this one
        self.tries: tuple[list[Id], int] = ([], 0)

    async def write(self, records: Sequence[Record]) -> None:
        """Take the records, or die in the middle of them."""
        if records[0].kind == "ledger":
            return await super().write(records)
        batch = ids(records)
        self.book.given(batch)
        if self.gate is not None:
            await self.gate.wait()
        error = TEMPERS[self.temper()](records)
        if error is None:
            await super().write(records)
            return self.book.done(batch, "delivered")
        refused = getattr(error, "rejected", ())
        self.records += [one for one in records if one not in refused] if refused else records[: len(records) // 2]
        await anyio.lowlevel.checkpoint()
        self.judge(batch, error)
        raise error

    def judge(self, batch: list[Id], error: BaseException) -> None:
        """Note what such an answer means, by what README says of retries and refusals."""
        if isinstance(error, PermanentError) and error.rejected:
            self.book.done(set(batch) - set(ids(error.rejected)), "delivered")
            self.book.done(ids(error.rejected), "failed")
        elif isinstance(error, PERMANENT):
            self.book.done(batch if len(batch) == 1 else (), "failed")
        else:
            number = self.tries[1] + 1 if self.tries[0] == batch else 1
            self.tries = batch, number
            if number == ATTEMPTS:
                self.tries = [], 0
                self.book.done(batch, "failed")


async def quiet() -> None:
    """Wait until all tasks wait, and for none of the lanes' short sleeps."""
    await anyio.wait_all_tasks_blocked()
    await anyio.sleep(2 * BREATH)
    await anyio.wait_all_tasks_blocked()


class Ledger(RuleBasedStateMachine):
    """Steps a bus by hand: the pump's looks are called here, the lanes run in a loop a step at a time."""

    backend: ClassVar[str] = "asyncio"

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.ticks = 0
        self.temper = "well"
        self.holes: list[Id] = []
        self.closed = False
        self.portal_context = anyio.from_thread.start_blocking_portal(self.backend)
        self.portal = self.portal_context.__enter__()

    @initialize(capacity=st.sampled_from([2, 8, 64]), backlog=st.integers(1, 20))
    def open(self, capacity: int, backlog: int) -> None:
        """Open a bus with five lanes of different tempers."""
        self.bus = EventBus(capacity=capacity, interval=3600, timeout=0.01, clock=self.clock, recorder=False)
        self.rings = RingBook(0, capacity), RingBook(1, capacity)
        self.books: list[LaneBook] = []
        self.sinks: list[Witness] = []
        self.add(LaneBook((0, 0), lambda _: True, 65_536), name="good")
        self.add(LaneBook((0, 0), self.is_picked, backlog), name="picky", events="a*", backlog=backlog)
        book = LaneBook((0, 0), lambda _: True, backlog, newest=True)
        tempered = {"backlog": backlog, "overflow": "drop_newest", "retry": Retry(base=0.0, attempts=ATTEMPTS)}
        self.add(book, temper=lambda: self.temper, name="failing", **tempered)
        self.add(LaneBook((0, 0), lambda _: True, backlog), name="stuck", backlog=backlog)
        latest = LatestBook((0, 0), lambda _: True, backlog, self.name)
        self.add(latest, name="latest", backlog=backlog, coalesce=lambda record: record.name)
        self.watch(self.bus._drain.pump)
        self.block = self.portal.wrap_async_context_manager(self.bus)
        self.block.__enter__()

    def add(self, book: LaneBook, temper: Callable[[], str] = lambda: "well", **options: Any) -> None:
        """Subscribe a sink with a book."""
        self.books.append(book)
        self.sinks.append(Witness(book, temper))
        self.bus.subscribe(self.sinks[-1], **options)

    def watch(self, pump: Any) -> None:
        """Write each look into the books, whoever asked for it; it happens at the machine's own time."""
        look, replay = pump.look, pump.replay

        def watched_look(receivers: Any, _now: float, most: int) -> int:
            names = {lane.name for lane in receivers()}
            moved = look(receivers, self.now, most)
            looks = [
                ring.read(cursor.position, self.now) for ring, cursor in zip(self.rings, pump.cursors, strict=True)
            ]
            self.hand_out(
                looks, [book for book, lane in zip(self.books, self.bus.lanes, strict=True) if lane.name in names]
            )
            return int(moved)

        def watched_replay(lane: Any, origins: Sequence[int]) -> None:
            replay(lane, origins)
            looks = [ring.again(origin) for ring, origin in zip(self.rings, origins, strict=True)]
            self.hand_out(looks, [self.books[self.bus.lanes.index(lane)]])

        pump.look, pump.replay = watched_look, watched_replay

    def hand_out(self, looks: Sequence[tuple[list[Id], dict[Id, str]]], books: Sequence[LaneBook]) -> None:
        """Give what was found in the rings to the lanes: in order of time where there is something in both."""
        found = [one for ones, _ in looks for one in ones]
        if all(ones for ones, _ in looks):
            found.sort(key=lambda one: self.rings[one.ring].times[one.seq])
        for book in books:
            for _, lost in looks:
                book.lose(lost)
            book.offer(found)

    def clock(self) -> int:
        """Return a time that is nobody else's."""
        self.ticks += 1
        return self.ticks

    def name(self, one: Id) -> str:
        """Return what a record is called, by the book."""
        return self.rings[one.ring].names[one.seq]

    def is_picked(self, one: Id) -> bool:
        """Whether the picky lane wants a record."""
        return one.ring == 0 and self.name(one).startswith("a")

    @property
    def heads(self) -> tuple[int, int]:
        """How many events and metrics were recorded, by the book."""
        return len(self.rings[0].names), len(self.rings[1].names)

    # --- the steps ---

    @rule(count=st.integers(1, 30), name=st.sampled_from(["a", "b"]))
    def emit(self, count: int, name: str) -> None:
        """Emit events and metrics."""
        for number in range(count):
            self.bus.record(Event(name, EventSource.WORKER, metadata={"n": number}))
            self.rings[0].store(self.rings[0].take(name), self.ticks)
            self.bus.put_metric(name, number)
            self.rings[1].store(self.rings[1].take(name), self.ticks)

    @rule(name=st.sampled_from(["a", "b"]), extra=st.integers(0, 3))
    def lap(self, name: str, extra: int) -> None:
        """Emit more than the rings hold."""
        self.emit(2 * self.bus._rings[0].capacity + extra, name)

    @rule(ring=st.integers(0, 1), back=st.integers(1, 4))
    def damage(self, ring: int, back: int) -> None:
        """Overwrite a slot with what nobody can decode."""
        _, slots, mask, _ = self.bus._rings[ring].pipe
        seq = len(self.rings[ring].names) - back
        if seq >= 0 and slots[seq & mask] is not None:
            slots[seq & mask] = b"\xc1"
            self.rings[ring].damage(seq)

    @rule(ring=st.integers(0, 1))
    def interrupt(self, ring: int) -> None:
        """Take a number and store nothing, yet."""
        assert self.bus._rings[ring].pipe[0]() == self.rings[ring].take("late")
        self.holes.append(Id(ring, len(self.rings[ring].names) - 1))

    @precondition(lambda self: self.holes)
    @rule()
    def resume(self) -> None:
        """Store what an interrupted emitter owed, over whatever is there by now."""
        ring, seq = self.holes.pop()
        _, slots, mask, now = self.bus._rings[ring].pipe
        rest = ("late", "g", 1) if ring else ("late", "null", "WORKER", 0, {})
        slots[seq & mask] = encode((seq, now(), *rest))
        self.rings[ring].store(seq, self.ticks)

    @precondition(lambda self: not self.closed)
    @rule(most=st.integers(1, 50), later=st.sampled_from([0.0, GRACE * 2]))
    def look(self, most: int, later: float) -> None:
        """Let the pump look, now or after the grace time."""
        self.now += later

        def step() -> None:
            self.bus._drain._look(most)
            self.bus._drain._stir()

        self.portal.call(step)

    @rule(temper=st.sampled_from(list(TEMPERS)))
    def change_temper(self, temper: str) -> None:
        """Let the failing sink be well, fail, or die in the middle of a batch."""
        self.temper = temper

    @precondition(lambda self: not self.closed)
    @rule(shut=st.booleans())
    def gate(self, shut: bool) -> None:
        """Let the stuck sink hang from now on, or go on."""

        def move() -> None:
            gate, self.sinks[3].gate = self.sinks[3].gate, anyio.Event() if shut else None
            if gate is not None:
                gate.set()

        self.portal.call(move)

    @rule()
    def flush(self) -> None:
        """Flush with no patience."""
        self.portal.call(self.bus.flush, 0.0)

    @precondition(lambda self: not self.closed and len(self.books) < 8)
    @rule(replay=st.integers(0, 10))
    def subscribe(self, replay: int) -> None:
        """Subscribe one more, which may want what is in the rings already."""
        back = min(replay, self.bus._rings[0].capacity)
        origins = [max(head - back, 0) for head in self.heads]
        self.add(LaneBook(origins, lambda _: True, 65_536), name="more", replay=replay)

    @rule(number=st.integers(0, 7))
    def unsubscribe(self, number: int) -> None:
        """End one subscription, or one that has ended."""
        if number < len(self.books):
            self.portal.call(self.bus.lanes[number].unsubscribe)
            self.books[number].end(self.heads)

    @precondition(lambda self: not self.closed)
    @rule()
    def close(self) -> None:
        """Close, perhaps with a stuck lane."""
        self.closed = True
        for book in self.books:
            book.end(self.heads)
        self.block.__exit__(None, None, None)
        for book in self.books:
            book.give_up(self.heads, "shutdown_deadline")

    @precondition(lambda self: self.closed)
    @rule()
    def close_again(self) -> None:
        """Close what is closed: it says the same."""
        given_up = {lane.name: count for lane, count in self.given_up() if count}
        assert self.portal.call(self.bus.aclose).undelivered == given_up

    def given_up(self) -> list[tuple[Any, int]]:
        """Return how many records of each lane the close gave up, by the books."""
        return [(lane, book.sums()["shutdown_deadline"]) for lane, book in zip(self.bus.lanes, self.books, strict=True)]

    # --- what must be true after each ---

    @invariant()
    def each_record_has_one_fate(self) -> None:
        """Each lane's sums are those of its book, and its sink has what the book calls delivered."""
        if not hasattr(self, "bus"):
            return
        stats = self.portal.call(self.settled)
        assert stats.errors == 0
        for book, sink, (name, lane) in zip(self.books, self.sinks, stats.lanes.items(), strict=True):
            assert not book.wrong, (name, book.wrong)
            sums, accepted = book.sums(), book.accepted(self.heads)
            assert lane.accepted == len(accepted), name
            assert (lane.delivered, lane.failed, lane.filtered) == (
                *(sums.pop("delivered", 0), sums.pop("failed", 0), sums.pop("filtered", 0)),
            ), name
            assert {reason: count for reason, count in lane.dropped.items() if count} == dict(sums), name
            assert lane.pending == len(accepted - set(book.fates)), name
            assert sum(lane.failed_by.values()) == lane.failed
            kept = ids(sink.payload)
            assert {one for one, fate in book.fates.items() if fate == "delivered"} <= set(kept), name
            assert all(record.name == self.name(one) for record, one in zip(sink.payload, kept, strict=True))
            assert name == "failing" or len(kept) == len(set(kept)) == lane.delivered, name
        if self.closed:
            assert not any(lane.pending for lane in stats.lanes.values())

    async def settled(self) -> BusStats:
        """Return the ledgers of a moment in which no lane had anything to do: one that sleeps looks as if it waited."""
        while True:
            before = self.bus.stats()
            await quiet()
            after = self.bus.stats()
            if before.lanes == after.lanes:
                return after

    def teardown(self) -> None:
        """Close what is open."""
        if hasattr(self, "bus") and not self.closed:
            self.block.__exit__(None, None, None)
        self.portal_context.__exit__(None, None, None)


class TrioLedger(Ledger):
    """The same on trio."""

    backend: ClassVar[str] = "trio"


TestLedger = Ledger.TestCase
TestLedger.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestTrioLedger = TrioLedger.TestCase
TestTrioLedger.settings = TestLedger.settings


def test_late_record_of_an_ended_subscription() -> None:
    """Seq 0 stored after seq 1, by its time too: a lane that ended between them takes the first alone."""
    state = Ledger()
    state.open(capacity=2, backlog=1)
    state.interrupt(ring=1)
    state.unsubscribe(number=0)
    state.emit(count=1, name="a")
    state.resume()
    state.look(most=50, later=0.0)
    state.each_record_has_one_fate()
    assert [record.name for record in state.sinks[0].payload] == ["late"]
    state.teardown()


def test_interrupted_record_is_lost_once_to_a_lane_that_comes_late() -> None:
    """A number that is taken and not stored, then lapped: a lane that wanted it from before counts it once."""
    state = Ledger()
    state.open(capacity=2, backlog=1)
    state.interrupt(ring=0)
    state.flush()
    state.subscribe(replay=1)
    state.lap(extra=0, name="a")
    state.flush()
    state.each_record_has_one_fate()
    state.teardown()
