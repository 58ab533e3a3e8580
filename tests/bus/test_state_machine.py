"""The invariant of the ledger, under every order of emitting, interrupting, failing, looking, flushing and closing."""

from collections.abc import Callable
from typing import Any, cast

import anyio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from elastic_events import Event, EventBus, EventSource, PermanentError, Retry
from elastic_events.bus.codec import encode
from elastic_events.bus.pump import BREATH, GRACE
from elastic_events.testing import FailingSink, GatedSink, ListSink


async def quiet() -> None:
    """Wait until all tasks wait, and for none of the lanes' short sleeps."""
    await anyio.wait_all_tasks_blocked()
    await anyio.sleep(2 * BREATH)
    await anyio.wait_all_tasks_blocked()


class Ledger(RuleBasedStateMachine):
    """Steps a bus by hand: the pump's looks are called here, the lanes run in a loop a step at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.outcome: Callable[[], BaseException | None] = lambda: None
        self.holes: list[tuple[int, int]] = []
        self.closed = False
        # The machine's own book: what was recorded under which number, and up to where each lane was to accept.
        self.book: tuple[dict[int, str], dict[int, str]] = ({}, {})
        self.ends: dict[int, tuple[int, int]] = {}
        self.portal_context = anyio.from_thread.start_blocking_portal()
        self.portal = self.portal_context.__enter__()

    @initialize(capacity=st.sampled_from([2, 8, 64]), backlog=st.integers(1, 20))
    def open(self, capacity: int, backlog: int) -> None:
        """Open a bus with four lanes of different tempers."""
        self.bus = EventBus(capacity=capacity, interval=3600, timeout=0.01)
        self.good = ListSink()
        self.bus.subscribe(self.good, name="good")
        self.bus.subscribe(ListSink(), name="picky", events="a*", metrics=False, backlog=backlog)
        self.bus.subscribe(
            FailingSink(lambda *_: self.outcome()),
            name="failing",
            retry=Retry(base=0.0, attempts=2),
            backlog=backlog,
            overflow="drop_newest",
        )
        self.bus.subscribe(GatedSink(), name="stuck", backlog=backlog)
        self.block = self.portal.wrap_async_context_manager(self.bus)
        self.block.__enter__()

    @rule(count=st.integers(1, 30), name=st.sampled_from(["a", "b"]))
    def emit(self, count: int, name: str) -> None:
        """Emit events and metrics."""
        for number in range(count):
            self.bus.record(Event(name, EventSource.WORKER, metadata={"n": number}))
            self.bus.put_metric(name, number)
            for book in self.book:
                book[len(book)] = name

    @rule(name=st.sampled_from(["a", "b"]), extra=st.integers(0, 3))
    def lap(self, name: str, extra: int) -> None:
        """Emit more than the rings hold."""
        self.emit(2 * self.bus._rings[0].capacity + extra, name)

    @rule(ring=st.integers(0, 1), back=st.integers(1, 4))
    def damage(self, ring: int, back: int) -> None:
        """Overwrite a slot with what nobody can decode."""
        _, slots, mask, _ = self.bus._rings[ring].pipe
        if len(self.book[ring]) >= back and slots[len(self.book[ring]) - back & mask] is not None:
            slots[len(self.book[ring]) - back & mask] = b"\xc1"

    @rule(ring=st.integers(0, 1))
    def interrupt(self, ring: int) -> None:
        """Take a number and store nothing, yet."""
        self.holes.append((ring, self.bus._rings[ring].pipe[0]()))
        self.book[ring][len(self.book[ring])] = "late"

    @precondition(lambda self: self.holes)
    @rule()
    def resume(self) -> None:
        """Store what an interrupted emitter owed."""
        ring, seq = self.holes.pop()
        _, slots, mask, now = self.bus._rings[ring].pipe
        rest = ("late", "g", 1) if ring else ("late", "null", "WORKER", 0, {})
        slots[seq & mask] = encode((seq, now(), *rest))

    @precondition(lambda self: not self.closed)
    @rule(most=st.integers(1, 50), later=st.sampled_from([0.0, GRACE * 2]))
    def look(self, most: int, later: float) -> None:
        """Let the pump look, now or after the grace time."""
        self.now += later
        pump, lanes = self.bus._drain.pump, self.bus.lanes

        def step() -> None:
            pump.look(lambda: lanes, self.now, most)
            for lane in lanes:
                lane.stir()

        self.portal.call(step)

    @rule(
        outcome=st.sampled_from(
            [lambda: None, lambda: OSError("down"), lambda: PermanentError("poison"), lambda: ValueError("bug")],
        ),
    )
    def change_temper(self, outcome: Any) -> None:
        """Let the failing sink fail otherwise."""
        self.outcome = outcome

    @rule()
    def run_lanes(self) -> None:
        """Let the lanes work until they wait."""
        self.portal.call(quiet)

    @rule()
    def flush(self) -> None:
        """Flush with no patience."""
        self.portal.call(self.bus.flush, 0.0)

    @rule(number=st.integers(0, 3))
    def unsubscribe(self, number: int) -> None:
        """End one subscription."""
        self.portal.call(self.bus.lanes[number].unsubscribe)
        self.ends.setdefault(number, self.heads())

    @precondition(lambda self: not self.closed)
    @rule()
    def close(self) -> None:
        """Close with a stuck lane."""
        self.closed = True
        for number in range(4):
            self.ends.setdefault(number, self.heads())
        self.block.__exit__(None, None, None)

    @precondition(lambda self: self.closed)
    @rule()
    def close_again(self) -> None:
        """Close what is closed."""
        assert self.portal.call(self.bus.aclose) is not None

    def heads(self) -> tuple[int, int]:
        """Return how many events and metrics were recorded, by the book."""
        return len(self.book[0]), len(self.book[1])

    @invariant()
    def adds_up(self) -> None:
        """Per lane: accepted = delivered + failed + dropped + filtered + pending."""
        if not hasattr(self, "bus"):
            return
        stats, delivered = self.portal.call(self.settled)
        for name, lane in stats.lanes.items():
            assert lane.balanced, (name, lane)
            assert min(lane.delivered, lane.failed, lane.filtered, lane.pending, *lane.dropped.values(), 0) == 0
        self.agrees_with_the_book(stats.lanes, delivered)
        if self.closed:
            assert not any(lane.pending for lane in stats.lanes.values())

    async def settled(self) -> tuple[Any, list[list[Any]]]:
        """Return the ledgers and what each sink has, of one moment in which no lane had anything to do.

        A lane that sleeps between two turns looks as if it waited.
        """
        while True:
            before = self.bus.stats()
            await quiet()
            after = self.bus.stats()
            if before.lanes == after.lanes:
                return after, [list(cast("Any", lane).sink.payload) for lane in self.bus.lanes]

    def agrees_with_the_book(self, lanes: dict[str, Any], sinks: list[list[Any]]) -> None:
        """Each lane accepted what the book says, and each record has one fate: delivered once, or counted as something else."""
        for number, (name, lane) in enumerate(lanes.items()):
            accepted = self.ends.get(number, self.heads())
            assert lane.accepted == sum(accepted), name
            payload = sinks[number]
            delivered = [("em".index(one.ring), one.seq) for one in payload]
            assert len(set(delivered)) == len(delivered) == lane.delivered, name
            for ring, seq in delivered:
                assert seq < accepted[ring], name
            for one in payload:
                assert one.name == self.book["em".index(one.ring)][one.seq], name
                assert name != "picky" or (one.kind == "event" and one.name == "a")
            others = lane.failed + lane.filtered + lane.pending + sum(lane.dropped.values())
            assert others == sum(accepted) - len(delivered), name
        assert lanes["good"].filtered == lanes["good"].failed == 0
        unwanted = sum(1 for one in self.book[0].values() if one != "a") + len(self.book[1])
        assert lanes["picky"].filtered <= unwanted

    def teardown(self) -> None:
        """Close what is open."""
        if hasattr(self, "bus") and not self.closed:
            self.block.__exit__(None, None, None)
        self.portal_context.__exit__(None, None, None)


TestLedger = Ledger.TestCase
TestLedger.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


def test_late_record_of_an_ended_subscription() -> None:
    """Seq 0 stored after seq 1, by its time too: a lane that ended between them takes the first alone."""
    state = Ledger()
    state.open(capacity=2, backlog=1)
    state.interrupt(ring=1)
    state.unsubscribe(number=0)
    state.emit(count=1, name="a")
    state.resume()
    state.look(most=50, later=0.0)
    state.adds_up()
    assert [record.name for record in state.good.payload] == ["late"]
    state.teardown()
