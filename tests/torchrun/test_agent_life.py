"""The plug-in's bus without torch: what came before it stood, and who is waited for at the exit."""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from elastic_events import EventBus
from elastic_events.bus.record import Record
from elastic_events.recorder.reader import RecorderReader
from elastic_events.sinks.urls import SCHEMES
from elastic_events.torchrun.begin import recorder_directory
from elastic_events.torchrun.install import Installation
from elastic_events.torchrun.job import Job


class Sink:
    """Keeps names; takes `each` seconds a record, or waits for `gate`."""

    def __init__(self, each: float = 0.0, gate: threading.Event | None = None) -> None:
        self.each = each
        self.gate = gate
        self.names: list[str] = []
        self.entered = threading.Event()

    async def open(self) -> None:
        """Nothing to open."""

    async def write(self, records: Sequence[Record]) -> None:
        """Take the records, one at a time."""
        self.entered.set()
        if self.gate is not None:
            while not self.gate.is_set():
                await anyio.sleep(0.01)
        for record in records:
            await anyio.sleep(self.each)
            self.names.append(record.name)

    async def aclose(self) -> None:
        """Nothing to close."""


@pytest.fixture
def sinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Sinks by scheme; the recorder is in the test's own folder."""
    table: dict[str, Any] = {}
    for name in ("ELASTIC_EVENTS_DIR", "ELASTIC_EVENTS_DEADLINE"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield table
    for scheme in table:
        SCHEMES.pop(scheme, None)


def job(sinks: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job that records into `sinks`."""
    for scheme, sink in sinks.items():
        SCHEMES[scheme] = lambda _url, sink=sink: sink
    monkeypatch.setenv("ELASTIC_EVENTS_SINKS", ",".join(f"{scheme}:" for scheme in sinks))
    made = Job(Installation(), recorder_directory("exit"), "exit", 1)
    made.launch()
    return made


def ring(tmp_path: Path) -> Path:
    """Where this process's records stay."""
    (path,) = tmp_path.glob(f"elastic-events-*/exit/{os.getpid()}/*.ring")
    return path


def test_what_came_before_the_bus_has_its_own_time(tmp_path: Path) -> None:
    """Records that torch makes while the bus is being opened are delivered in order, under the times they were made at."""
    installation = Installation()
    before = time.monotonic_ns()
    installation.metric("early", 1, "g")
    installation.event('{"name": "e", "source": "AGENT", "timestamp": 0, "metadata": {"k": 1}}')
    made = time.monotonic_ns()
    records: list[Record] = []
    with EventBus(records.append) as bus:
        installation.connect(bus, lambda: None)
        installation.metric("late", 2, "g")
        bus.flush_sync()
    assert [record.name for record in sorted(records, key=lambda record: record.monotonic_ns)] == ["early", "e", "late"]
    assert [before < record.monotonic_ns < made for record in records if record.name != "late"] == [True, True]
    assert next(record.monotonic_ns for record in records if record.name == "late") > made


def test_without_a_bus_torch_goes_on() -> None:
    """Where no bus could be opened, what torch hands over is let go."""
    installation = Installation()
    installation.metric("early", 1, "g")
    installation.remove()
    installation.metric("late", 2, "g")
    assert installation._waiting is None


def test_a_quick_sink_gets_all_by_the_exit(
    sinks: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A sink that goes on is waited for past any one write's time, and nothing stays in the recorder."""
    sinks["quick"] = Sink(0.001)
    agent = job(sinks, monkeypatch)
    for number in range(300):
        agent.bus.put_metric(f"m{number}", number)
    agent.end()
    assert sinks["quick"].names[:300] == [f"m{number}" for number in range(300)]
    assert not list(tmp_path.glob("elastic-events-*/exit/*"))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("beside", [False, True])
def test_a_sink_that_is_behind_is_not_waited_for(
    beside: bool,
    sinks: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The exit does not wait for a sink of a second a record; its records stay, and a sink beside it has all of them."""
    sinks["slow"] = Sink(1.0)
    if beside:
        sinks["quick"] = Sink()
    agent = job(sinks, monkeypatch)
    agent.bus.put_metric("first", 1)
    assert sinks["slow"].entered.wait(10)
    ((lane, late), *_) = agent._lanes
    late._due = time.monotonic()  # as if it had been at it for its time
    agent.bus.put_metric("last", 2)
    begin = time.monotonic()
    agent.end()
    assert time.monotonic() - begin < 0.5
    assert lane.stats().dropped == {"shutdown_deadline": 2}
    assert "2 records are undelivered and stay in" in capfd.readouterr().err
    assert [record.name for record in RecorderReader(ring(tmp_path)).rest()] == ["first", "last"]
    if beside:
        assert sinks["quick"].names[:2] == ["first", "last"]


def test_a_sink_that_hangs_is_left_after_its_time(
    sinks: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that is young at the exit gets a quarter of a second, not the deadline of five."""
    sinks["hung"] = Sink(gate=threading.Event())
    agent = job(sinks, monkeypatch)
    agent.bus.put_metric("only", 1)
    assert sinks["hung"].entered.wait(10)
    begin = time.monotonic()
    agent.end()
    assert time.monotonic() - begin < 2
    assert ring(tmp_path)
