"""Tests as users write them, with the plugins that they have: each passes as it stands."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from elastic_events import Event, EventBus, EventSource, record
from elastic_events.testing import ListSink, capture
from tests.missing import missing
from tests.programs import python

ASYNCIO = """
import pytest, pytest_asyncio
from elastic_events import EventBus
from elastic_events.testing import ListSink
from elastic_metrics import put_metric

@pytest_asyncio.fixture
async def bus():
    async with EventBus(ListSink()) as bus:
        yield bus
    assert bus.stats().state == "closed"
    assert bus.stats().lanes["ListSink"].delivered == 1

@pytest.mark.asyncio
async def test_it(bus):
    put_metric("m", 1)
    assert await bus.flush(20)
"""

ANYIO = """
import pytest
from elastic_events import EventBus
from elastic_events.testing import ListSink
from elastic_metrics import put_metric

pytestmark = pytest.mark.anyio

@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param

@pytest.fixture
async def bus():
    async with EventBus(ListSink()) as bus:
        yield bus

async def test_it(bus):
    put_metric("m", 1)
    assert await bus.flush(20)
    assert bus.stats().lanes["ListSink"].delivered == 1
"""

UNITTEST = """
import unittest
from elastic_events import EventBus
from elastic_events.testing import ListSink, capture
from elastic_metrics import put_metric

class TestIt(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.sink = ListSink()
        self.bus = await self.enterAsyncContext(EventBus(self.sink))

    async def test_it(self):
        put_metric("m", 1)
        self.assertTrue(await self.bus.flush(20))
        self.assertEqual(len(self.sink.payload), 1)

    def test_capture(self):
        with capture(buses="all") as seen:
            put_metric("m", 2)
        self.assertEqual([one.value for one in seen.metrics], [2])
"""

FIXTURE = """
from elastic_events import Event, EventBus, EventSource, record

pytest_plugins = ["elastic_events.pytest_plugin"]

def test_it(captured):
    with EventBus() as bus:
        bus.record(Event("of the bus", EventSource.AGENT))
    record(Event("of nobody's", EventSource.AGENT))
    assert [one.name for one in captured] == ["of the bus", "of nobody's"]
"""


@pytest.mark.parametrize(
    ("test", "plugin"),
    [(ASYNCIO, "pytest_asyncio"), (ANYIO, "anyio"), (UNITTEST, ""), (FIXTURE, "")],
    ids=["pytest-asyncio", "anyio", "unittest", "captured"],
)
def test_of_a_user_passes(test: str, plugin: str, tmp_path: Path) -> None:
    """With warnings as errors, in a folder of its own."""
    if plugin and find_spec(plugin) is None:
        missing(f"{plugin} is not installed")
    (tmp_path / "test_mine.py").write_text(test)
    ini = "[pytest]\nfilterwarnings = error\n"
    asyncio = test is ASYNCIO
    (tmp_path / "pytest.ini").write_text(ini + "asyncio_default_fixture_loop_scope = function\n" * asyncio)
    only = [] if asyncio else ["-p", "no:asyncio"]
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", *only, cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def event(name: str) -> Event:
    """Return an event."""
    return Event(name, EventSource.AGENT)


def test_every_bus_is_captured() -> None:
    """Those that are open, those that open and close meanwhile, and what is recorded with none; in the order of time."""
    first = ListSink()
    with EventBus(first, interval=0.001) as outer:
        outer.record(event("before"))
        with capture(buses="all") as seen:
            record(event("1"))
            with EventBus() as inner:
                record(event("2"))
                inner.record(event("3"))
                outer.record(event("4"))
            record(event("5"))
        outer.record(event("after"))
    record(event("nobody's"))
    assert [one.name for one in seen] == ["1", "2", "3", "4", "5"]
    assert [one.name for one in first.payload] == ["before", "1", "4", "5", "after"]
    with capture(buses="all") as seen:
        record(event("alone"))
    assert [one.name for one in seen] == ["alone"]


def test_capture_that_cannot_tell_says_so() -> None:
    """A ring that turned over between two looks is no empty answer."""
    with EventBus(capacity=16) as bus, capture(buses="all") as seen:
        for _ in range(40):
            bus.record(event("e"))
        with pytest.raises(AssertionError, match="give capture"):
            len(seen)
