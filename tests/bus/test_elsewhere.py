"""A bus whose records another process drains: what it asks there, and what it still does itself."""

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import anyio
import pytest

from elastic_events import ConfigError, EventBus, LaneStats
from elastic_events.bus.context import Context
from elastic_events.bus.pump import PipedRing
from elastic_events.bus.ring import Ring
from elastic_events.testing import ListSink

EMPTY = LaneStats(0, 0, 0, {}, 0, 0, 0, "closed", 0, 0, "", {})


class Recorded(Ring):
    """A ring that knows whether it was closed."""

    closed = False

    def close(self) -> None:
        """Note it."""
        self.closed = True


class Other:
    """A drain in another process, as far as a bus can tell."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.undelivered: dict[str, int] = {}
        self.rings = (Recorded(64), Recorded(64))
        self.contexts: list[Context] = []
        self.meanwhile: Callable[[], object] = lambda: None

    urls: ClassVar[list[str]] = []

    def takes(self, url: str) -> bool:
        """Return whether the other process can serve `url`."""
        return True

    def subscribe(self, url: str) -> str:
        """Take a URL."""
        self.asked.append(url)
        return url.partition(":")[0]

    def lanes(self) -> dict[str, LaneStats]:
        """Return one ledger."""
        return {"sqlite": EMPTY._replace(accepted=7, delivered=7)}

    def flush(self, heads: Sequence[int], timeout: float) -> dict[str, int]:
        """Note the call."""
        self.asked.append(("flush", list(heads), timeout))
        self.meanwhile()
        return self.undelivered

    def close(self, heads: Sequence[int], timeout: float) -> dict[str, int]:
        """Note the call, and whether the rings were closed by then."""
        self.asked.append(("close", list(heads), timeout, self.rings[0].closed))
        return self.undelivered

    def reopen(self, context: Context) -> tuple[PipedRing, PipedRing]:
        """Make rings for a child."""
        self.contexts.append(context)
        self.rings = (Recorded(64), Recorded(64))
        return self.rings


@pytest.fixture
def other() -> Other:
    """The other process."""
    return Other()


def test_urls_are_lanes_of_the_other_process_and_no_thread_is_started(other: Other) -> None:
    """A bus with URLs only asks there for what it is asked, and does nothing itself."""
    before = threading.active_count()
    bus = EventBus("sqlite:///run.db", rings=other.rings, elsewhere=other)
    with bus:
        bus.put_metric("m", 1)
        lane = bus.subscribe("jsonl:///run.jsonl")
        assert lane.name == "jsonl"
        assert threading.active_count() == before
        assert bus.stats().lanes["sqlite"].delivered == 7
        assert bus.stats().accepted == 1
        assert bus.stats().pending == 0
        assert bus.flush_sync(3)
    assert other.asked == [
        "sqlite:///run.db",
        "jsonl:///run.jsonl",
        ("flush", [0, 1], 3),
        ("close", [0, 1], pytest.approx(5, abs=1), True),
    ]
    with pytest.raises(ConfigError, match="ends with the run"):
        lane.unsubscribe()


async def test_lane_of_the_other_process_ends_with_no_block(other: Other) -> None:
    """Who would end such a lane with a block, or wait for its end, is told why not in the same words."""
    with EventBus("sqlite:///run.db", rings=other.rings, elsewhere=other) as bus:
        lane = bus.subscribe("jsonl:///run.jsonl")
        with pytest.raises(ConfigError, match="ends with the run"):
            async with lane:
                pass
        with pytest.raises(ConfigError, match="ends with the run"):
            await lane.aclose()


def test_what_the_other_process_has_not_delivered_is_said(other: Other) -> None:
    """A flush and a close say what is undelivered there."""
    other.undelivered = {"nats": 3}
    bus = EventBus("nats://host/stream", rings=other.rings, elsewhere=other)
    bus.open()
    assert bus.flush_sync(0).undelivered == {"nats": 3}
    assert bus.close(0).undelivered == {"nats": 3}


def test_handler_of_its_own_starts_a_thread_and_gets_what_is_recorded_then(other: Other) -> None:
    """A Python handler is a lane of this process; its records are those from its subscription on."""
    sink = ListSink()
    bus = EventBus("sqlite:///run.db", rings=other.rings, elsewhere=other)
    with bus:
        bus.put_metric("before", 1)
        lane = bus.subscribe(sink)
        bus.put_metric("after", 1)
        assert bus.flush_sync(5)
        assert [record.name for record in sink.payload] == ["after"]
        assert set(bus.stats().lanes) == {"sqlite", "ListSink"}
    assert lane.stats().balanced
    assert lane.stats().accepted == 1
    assert sink.closed == 1


def test_both_are_flushed_at_once(other: Other) -> None:
    """A flush waits for both within one timeout, and says what either has not delivered."""
    gate = threading.Event()
    other.undelivered = {"sqlite": 2}
    other.meanwhile = gate.set

    async def waits(_record: object) -> None:
        while not gate.is_set():
            await anyio.sleep(0.001)

    with EventBus(waits, rings=other.rings, elsewhere=other) as bus:
        bus.put_metric("m", 1)
        assert bus.flush_sync(10).undelivered == {"sqlite": 2}
        assert bus.stats().lanes["waits"].delivered == 1


async def test_the_same_in_an_event_loop(other: Other) -> None:
    """In an event loop the bus asks the other process without blocking it."""
    sink = ListSink()
    async with EventBus(sink, "sqlite:///run.db", rings=other.rings, elsewhere=other) as bus:
        bus.put_metric("m", 1)
        assert await bus.flush(3)
        assert len(sink.payload) == 1
    assert [call[0] for call in other.asked[1:]] == ["flush", "close"]


def test_options_that_the_other_process_does_not_know_keep_the_sink_here(other: Other, tmp_path: Any) -> None:
    """A URL with a filter is a lane of this process: it must not get what it does not want."""
    with EventBus(rings=other.rings, elsewhere=other) as bus:
        bus.subscribe(f"jsonl:///{tmp_path}/run.jsonl", events=False)
        assert [lane.name for lane in bus.lanes] == ["jsonl"]
    assert [call[0] for call in other.asked] == ["close"]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_forked_child_has_rings_of_its_own(other: Other) -> None:
    """A child asks for rings with its first emit, under its own identity, and starts no thread for it."""
    bus = EventBus("sqlite:///run.db", rings=other.rings, elsewhere=other)
    bus.open()
    bus.put_metric("parent", 1)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            unasked = not other.contexts
            threads = threading.active_count()  # a library that another test has loaded may have begun one
            bus.put_metric("child", 1)
            mine = [context.pid for context in other.contexts] == [os.getpid()]
            started = threading.active_count() > threads
            status = 0 if unasked and mine and not started and bus.stats().accepted == 1 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert bus.stats().accepted == 1
    bus.close()
