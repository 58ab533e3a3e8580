"""Nothing grows with the number of names: of metrics, destinations, errors, processes, runs, files, lanes that are gone."""

import logging
from collections.abc import Iterator
from pathlib import Path

import anyio
import msgspec
import pytest

from elastic_events import Event, EventBus, EventSource, handlers
from elastic_events.bus.context import Context
from elastic_events.bus.pump import CHANNELS
from elastic_events.recorder.request import read_requests
from elastic_events.sinks import points as point_steps
from elastic_events.sinks import prometheus as prometheus_sink
from elastic_events.sinks import sqlite as sqlite_sink
from elastic_events.testing import ListSink
from tests.sinks.factory import CONTEXT, event, metric


def of(process: str, run_id: str = "run") -> Context:
    """Return the context of another process."""
    return msgspec.structs.replace(CONTEXT, process=process, run_id=run_id)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the destination "mine" wrote."""
    written: list[str] = []
    mine = logging.Handler()
    mine.emit = lambda record: written.append(record.getMessage())  # type: ignore[method-assign]
    monkeypatch.setattr(handlers, "_log_handlers", {**handlers._log_handlers, "mine": mine})
    return written


def test_destinations_made_of_data_neither_pile_up_nor_starve_a_real_one(
    lines: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    """A destination that comes after thousands of unknown ones gets its events, once each; few of the others are told."""
    with EventBus(ListSink()) as bus:
        for number in range(3 * CHANNELS):
            bus.record(Event("e", EventSource.WORKER), f"destination-{number}")
            if number % CHANNELS == 0:
                bus.record(Event("first", EventSource.WORKER), "mine")
        for _ in range(10):
            bus.record(Event("e", EventSource.WORKER), "x" * 4000)
        bus.record(Event("last", EventSource.WORKER), "mine")
        assert bus.flush_sync(30)
        assert [lane.name for lane in bus.lanes] == ["ListSink", "log:mine"]
        known = bus._pump._channels
        assert len(known) <= CHANNELS + 2
        assert max(map(len, known)) < CHANNELS
    assert len(lines) == 4
    assert capfd.readouterr().err.count("\n") < 100


async def test_errors_with_names_of_their_own_do_not_pile_up() -> None:
    """A handler whose errors are of ever new classes has a ledger of bounded length, in which each failure is counted."""
    count = 0

    async def fails(_record: object) -> None:
        nonlocal count
        count += 1
        raise type(f"Error{count}" + "x" * 1000, (Exception,), {})

    async with EventBus() as bus:
        lane = bus.subscribe(fails)
        for number in range(200):
            bus.put_metric("m", number)
        await bus.settled()
        stats = lane.stats()
    assert stats.failed == sum(stats.failed_by.values()) == 200
    assert 10 < len(stats.failed_by) < 50
    assert len(str(stats.failed_by)) < 5000


def processes(path: Path) -> list[str]:
    """Return who recorded what is in a SQLite file."""
    return [record.context.process for record in sqlite_sink.read_sqlite(path)]


async def test_processes_do_not_pile_up_in_a_sink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite remembers the last processes, and writes those of before again; the records of all are there."""
    monkeypatch.setattr(sqlite_sink, "CONTEXTS", 8)
    sink = sqlite_sink.SqliteSink(tmp_path / "run.db")
    await sink.open()
    for number in range(40):
        await sink.write([metric(number, context=of(f"1-2-{number % 20}"))])
        assert len(sink._contexts) <= 9
    await sink.aclose()
    found = await anyio.to_thread.run_sync(processes, tmp_path / "run.db")
    assert sorted(found) == sorted(f"1-2-{number % 20}" for number in range(40))


def test_processes_and_curves_do_not_pile_up_where_points_get_their_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bridge remembers the steps of the processes that were seen last, and the counts of as many curves."""
    monkeypatch.setattr(point_steps, "PROCESSES", 4)
    monkeypatch.setattr(point_steps, "COUNTS", 4)
    steps = point_steps.Steps()
    for number in range(20):
        busy, other = of("1-2-busy"), of(f"1-2-{number}")
        started = {"name": "step.started", "metadata": {"step": number}}
        points = steps.points(
            [
                event(number, **started, context=busy),
                event(number, **started, context=other),
                metric(number, context=busy),
                metric(number, name=f"m{number}", context=of("1-2-plain")),
                metric(number, name="steady", context=of("1-2-plain")),
            ]
        )
        assert [point.step for point in points.values()] == [number, 0, number]
    assert len(steps._marks) <= 4
    assert len(steps._counts) <= 4


def test_runs_do_not_pile_up_where_ranks_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prometheus remembers how many ranks the newest runs have."""
    pytest.importorskip("prometheus_client")
    monkeypatch.setattr(prometheus_sink, "NAMES", 4)
    sink = prometheus_sink.PrometheusSink(port=0)
    for number in range(20):
        sink._sign_of_life(metric(number, context=of("1-2-three", f"run-{number}")))
    assert set(sink._worlds) == {f"run-{number}" for number in range(16, 20)}


def test_requests_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    """Of the requests of runs that are over a collector that stays remembers nothing."""
    (tmp_path / ".requests").mkdir()
    seen: dict[str, int] = {}
    for number in range(10):
        file = tmp_path / ".requests" / f"{number:016x}.json"
        file.write_text("none")
        assert len(read_requests(tmp_path, seen)[1]) == 1
        file.unlink()
    read_requests(tmp_path, seen)
    assert seen == {}


async def test_lanes_that_have_ended_are_handed_nothing() -> None:
    """What is recorded costs the lanes that have ended no look, however many of them `stats` still shows."""
    async with EventBus() as bus:
        gone = [bus.subscribe(ListSink()) for _ in range(5)]
        for lane in gone:
            await lane.aclose()
            lane.offer = lambda _ring, _records: pytest.fail("it has ended")  # type: ignore[method-assign]
        bus.subscribe(sink := ListSink())
        bus.put_metric("m", 1)
        await bus.settled()
        assert len(sink.payload) == 1
        assert len(bus.stats().lanes) == 6
        assert bus.stats().errors == 0
