"""Sinks that cannot be opened, or written to, for a while: a delay, told once, and a last attempt at the close."""

import os
import signal
import threading
from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from elastic_events import ConfigError, EventBus, MissingExtra, Record, Retry
from elastic_events.bus.errors import TransientError
from elastic_events.sinks.blocking import BlockingSink
from elastic_events.testing import FailingSink, ListSink
from elastic_metrics import put_metric


@pytest.fixture
def anyio_backend() -> Any:
    """Run on trio with a clock that jumps to the next deadline."""
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class Away(ListSink):
    """A sink whose open raises until `there` is set."""

    def __init__(self, error: BaseException | None = None) -> None:
        super().__init__()
        self.error = error or ConnectionRefusedError("down")
        self.there = False

    async def open(self) -> None:
        """Open, or fail."""
        await super().open()
        if not self.there:
            raise self.error


async def test_lane_that_is_subscribed_while_its_server_is_down_opens_later(capfd: pytest.CaptureFixture[str]) -> None:
    """It tries again until the server is there, is told once, and loses nothing meanwhile."""
    sink = Away()
    async with EventBus() as bus:
        lane = bus.subscribe(sink, name="nats")
        for number in range(100):
            put_metric("m", number)
        await anyio.sleep(60)
        assert sink.opened > 3
        assert sink.closed == sink.opened
        assert lane.stats().pending == 100
        assert "down" in lane.stats().last_error
        sink.there = True
        with anyio.fail_after(60):
            await bus.settled()
    assert [r.fields[0] for r in sink.payload] == list(range(100))
    assert lane.stats().lost == 0
    said = "elastic_events: sink 'nats' cannot be opened, trying again: ConnectionRefusedError: down\n"
    told = capfd.readouterr().err
    assert told.startswith(said)
    assert "is well again" in told.removeprefix(said) or told == said  # if the drain looks once more


async def test_bus_starts_although_a_sink_is_down() -> None:
    """A server that is not there when a bus opens delays its lane, not the bus; the other lanes work."""
    away, well = Away(), ListSink()
    async with EventBus(away, well) as bus:
        put_metric("m", 1)
        await anyio.sleep(1)
        assert len(well.records) == 1
        away.there = True
        with anyio.fail_after(60):
            await bus.settled()
    assert len(away.payload) == 1


@pytest.mark.parametrize("error", [ConfigError("no such directory"), MissingExtra("NATS", "nats")], ids=repr)
async def test_users_mistake_fails_the_start(error: Exception) -> None:
    """What only the user can put right is raised by a bus that opens, as it is."""
    bus = EventBus(Away(error))
    with pytest.raises(type(error)) as raised:
        await bus.__aenter__()
    assert raised.value is error


async def test_sink_that_hangs_while_it_opens_delays_the_start_for_seconds_only() -> None:
    """A sink that neither opens nor fails holds neither the start nor the close."""

    class Hangs(ListSink):
        async def open(self) -> None:
            await anyio.sleep_forever()

    began = anyio.current_time()
    async with EventBus(Hangs(), well := ListSink(), timeout=2):
        put_metric("m", 1)
        assert anyio.current_time() - began < 10
    assert len(well.payload) == 1
    assert anyio.current_time() - began < 20


async def test_an_open_that_hangs_has_a_limit(capfd: pytest.CaptureFixture[str]) -> None:
    """A sink that hangs as it opens is tried again, though its lane waits for its writes without limit, and is told of."""

    class HangsOnce(ListSink):
        async def open(self) -> None:
            await super().open()
            if self.opened == 1:
                await anyio.sleep_forever()

    sink = HangsOnce()
    async with EventBus() as bus:
        bus.subscribe(sink, name="slow", timeout=None)
        put_metric("m", 1)
        with anyio.fail_after(200):
            await bus.settled()
    assert sink.opened == 2
    said = "elastic_events: sink 'slow' cannot be opened, trying again: TimeoutError: no answer within 60 s"
    assert capfd.readouterr().err.splitlines()[0] == said


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_open_that_hangs_in_its_thread_takes_one_thread() -> None:
    """However often a blocking sink is tried again while its first attempt hangs, one thread hangs."""
    gate, threads = threading.Event(), []

    class Hangs(BlockingSink):
        thread_name = "hangs"

        def open_now(self) -> None:
            threads.append(threading.current_thread())
            gate.wait(60)

        def write_now(self, records: Sequence[Record]) -> None:
            written.extend(records)

        def close_now(self) -> None:
            pass

        def abandon(self) -> None:
            pass

    written: list[Record] = []
    async with EventBus() as bus:
        lane = bus.subscribe(Hangs(), timeout=0.05)
        bus.put_metric("m", 1)
        with anyio.fail_after(30):
            while "has not ended yet" not in lane.last_error:
                await anyio.sleep(0.01)
        assert len(threads) == 1
        gate.set()
        with anyio.fail_after(60):
            await bus.settled()
    assert [one.fields[0] for one in written if one.kind == "metric"] == [1]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("patience", [0, 0.001, 0.1])
def test_bus_that_is_cancelled_while_it_opens_ends(backend: str, patience: float) -> None:
    """A block that is cancelled before it began neither hangs nor runs."""

    class Hangs(ListSink):
        async def open(self) -> None:
            await anyio.sleep_forever()

    async def main() -> bool:
        for bus in (EventBus(), EventBus(Hangs())):
            with anyio.fail_after(20), anyio.move_on_after(patience):
                async with bus:
                    await anyio.sleep_forever()
        return bus.stats().state == "closed"

    assert anyio.run(main, backend=backend)


class Interrupted(ListSink):
    """A sink that hangs while it opens, and whose user has no patience."""

    async def open(self) -> None:
        """Let Ctrl-C strike the main thread, which waits for this."""
        os.kill(os.getpid(), signal.SIGINT)
        await anyio.sleep_forever()


def test_ctrl_c_while_a_bus_opens_ends_its_drain() -> None:
    """It went on to open its sinks, in the thread of a bus that was closed, for as long as the program ran."""
    bus = EventBus(Interrupted())
    with pytest.raises(KeyboardInterrupt):
        bus.open()
    assert bus._home is not None
    bus._home.join(20)
    assert not bus._home.alive


@pytest.mark.parametrize("late", [False, True])
def test_ctrl_c_before_a_bus_has_its_thread_waits_for_none(late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waited for the loop of a thread that was never started, for ever; one that starts all the same opens no sink."""
    begun: list[threading.Thread] = []
    sink = ListSink()

    def interrupted(thread: threading.Thread) -> None:
        begun.append(thread)
        os.kill(os.getpid(), signal.SIGINT)

    bus = EventBus(sink)
    start = threading.Thread.start
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bus.open()
    assert bus.stats().state == "closed"
    if late:
        start(begun[0])
        begun[0].join(20)
        assert not begun[0].is_alive()
        assert sink.opened == 0


async def test_close_gives_a_sink_that_is_not_open_a_last_attempt() -> None:
    """A wait for the next attempt is ended by the close: a sink that is there again gets everything."""
    sink = Away()
    async with EventBus() as bus:
        lane = bus.subscribe(sink)
        put_metric("m", 1)
        await anyio.sleep(60)
        sink.there = True
    assert len(sink.payload) == 1
    assert lane.stats().delivered == 1


async def test_sink_that_never_opened_costs_the_close_no_time_and_is_counted() -> None:
    """Records for a sink that could not be opened are counted under that reason."""
    sink = Away()
    bus = EventBus(timeout=1000)
    async with bus:
        lane = bus.subscribe(sink)
        put_metric("m", 1)
        await anyio.sleep(30)
        began = anyio.current_time()
        result = await bus.aclose()
        assert anyio.current_time() - began < 1
        assert result.undelivered == {"Away": 1}
    assert lane.stats().dropped == {"not_opened": 1}
    assert lane.stats().balanced


async def test_retry_without_an_end_never_gives_up() -> None:
    """With an infinite budget a transient failure is a delay, however long it lasts."""
    down = [True]
    sink = FailingSink(lambda *_: OSError("down") if down[0] else None)
    async with EventBus(interval=600) as bus:
        lane = bus.subscribe(sink, retry=Retry(budget=float("inf")))
        put_metric("m", 1)
        await anyio.sleep(100_000)
        assert lane.stats().pending == 1
        down[0] = False
        with anyio.fail_after(60):
            await bus.settled()
    assert len(sink.payload) == 1


async def test_close_wakes_a_backoff() -> None:
    """A lane that was told to wait a minute tries once more when the bus closes, well within its deadline."""

    def busy(_records: Sequence[Record], attempt: int) -> BaseException | None:
        return TransientError("429", retry_after=60) if attempt == 1 else None

    sink = FailingSink(busy)
    async with EventBus(timeout=5, interval=0.01) as bus:
        lane = bus.subscribe(sink)
        put_metric("m", 1)
        while not sink.attempts:
            await anyio.sleep(0.1)
    assert lane.stats().delivered == 1


async def test_close_tries_again_until_its_timeout() -> None:
    """A sink that is well again a while after the close has begun gets everything, however long its lane was to wait."""

    def fails(_records: Sequence[Record], attempt: int) -> BaseException | None:
        return TransientError("429", retry_after=3600) if attempt < 4 else None

    async with EventBus(timeout=60) as bus:
        lane = bus.subscribe(FailingSink(fails), retry=Retry(budget=float("inf")))
        put_metric("m", 1)
    assert lane.stats().delivered == 1


async def test_failures_are_counted_by_the_name_of_their_error() -> None:
    """The ledger says by what records failed."""

    async def odd(one: Record) -> None:
        if one.fields[0]:
            raise [ValueError, KeyError, KeyError][one.fields[0] - 1]

    async with EventBus(odd) as bus:
        for number in range(4):
            put_metric("m", number)
    stats = bus.stats().lanes["odd"]
    assert stats.failed_by == {"ValueError": 1, "KeyError": 2}
    assert stats.failed == 3
    assert stats.balanced


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"batch_bytes": 0},
        {"linger": -1},
        {"linger": float("nan")},
        {"timeout": 0},
        {"backlog": 0},
        {"backlog_bytes": 0},
        {"overflow": "drop_all"},
        {"events": 3},
        {"metrics": [1]},
    ],
    ids=str,
)
def test_wrong_options_are_refused_at_once(options: dict[str, Any]) -> None:
    """What no subscription can mean is refused where it is written."""
    with pytest.raises(ConfigError):
        EventBus().subscribe(ListSink(), **options)


def test_handler_that_is_a_class_is_refused() -> None:
    """A class in place of its instance is refused with what to give."""
    with pytest.raises(ConfigError, match="give an async function"):
        EventBus(ListSink)


async def test_a_sink_that_closes_slowly_has_a_second_beyond_the_deadline() -> None:
    """What writes its last lines as it closes is not cut at the deadline of the bus, opened or not."""
    closed: list[str] = []

    class Slow(ListSink):
        def __init__(self, name: str, error: OSError | None = None) -> None:
            super().__init__()
            self.name, self.error = name, error

        async def open(self) -> None:
            if self.error is not None:
                raise self.error

        async def aclose(self) -> None:
            await anyio.sleep(0.3)
            closed.append(self.name)

    async with EventBus(Slow("open"), Slow("refused", OSError("down")), timeout=0.1):
        pass
    assert closed.count("open") == 1
    assert closed.count("refused") >= 2  # the last attempt comes with the close


async def test_a_lane_that_comes_just_before_the_close_is_opened_and_closed() -> None:
    """A sink that is subscribed as the last thing in the block gets its ledger and is closed, and the block ends at once."""
    sink = ListSink()
    with anyio.fail_after(20):
        async with EventBus(interval=60, timeout=60) as bus:
            await anyio.wait_all_tasks_blocked()
            bus.subscribe(sink)
    assert [record.kind for record in sink.records] == ["ledger"]
    assert sink.closed


def test_a_server_that_asks_for_patience_gets_no_more_than_the_budget() -> None:
    """A wait that a server asks for ends with the time in which a batch is tried; without a budget left there is none."""
    retry = Retry(budget=30)
    assert retry.wait(1, 0.0, asked=5) == 5
    assert retry.wait(1, 0.0, asked=10**9) == 30
    assert retry.wait(1, 31.0, asked=5) is None
