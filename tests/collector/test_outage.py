"""A sink that is away while programs record through their collector: a delay, whatever else happens meanwhile."""

import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.outage import SINKS, Absent, opened, outage, spool_bytes, start_program, stop_program
from elastic_events.recorder.reader import RecorderReader
from tests.collector.programs import Place, place, until
from tests.missing import missing

__all__ = ("place",)

#: Records a second of which a ring holds those of eight: so long may it take to start a collector again.
FAST = 2000


@pytest.fixture(params=list(SINKS))
def sink(request: pytest.FixtureRequest, place: Place) -> Iterator[Any]:
    """A real sink of each kind, which can go away."""
    yield from _sink(request.param, place)


@pytest.fixture
def jetstream(place: Place) -> Iterator[Any]:
    """A JetStream server that can go away."""
    yield from _sink("JetStream", place)


def _sink(name: str, place: Place) -> Iterator[Any]:
    try:
        with opened(name, place.folder) as sink:
            yield sink
    except Absent as error:
        if "mounting" in str(error):
            pytest.skip(str(error))
        missing(str(error))


def program(place: Place, sink: Any, rate: float = 500, timeout: float = 60, **env: str) -> "subprocess.Popen[str]":
    """Start a program that records numbers through its collector until it is told to stop; it ends with the test."""
    made = start_program(sink.url, place.folder, rate, timeout, **env)
    place.started.append(made)
    return made


def all_is_delivered(place: Place) -> bool:
    """Whether the collector has ended, and left nothing in its directory."""
    return not list((place.folder / "recorders").iterdir())


def wait(stopped: "subprocess.Popen[str]") -> None:
    """Wait for a program's end, which is one in order."""
    assert stopped.wait(100) == 0


def until_more_is_spooled(place: Place) -> None:
    """Wait until more records lie in the spool than now."""
    before = spool_bytes(place.folder)
    until(lambda: spool_bytes(place.folder) > before)


def test_outage_loses_nothing(place: Place, sink: Any) -> None:
    """A sink that was away for three seconds has every record, each once; memory is what it was."""
    found = outage(sink, place.folder, 500, 3)
    assert found["recorded"] > 500
    assert (found["arrived"], found["twice"]) == (found["recorded"], 0)
    assert found["most_mib"] < found["begin_mib"] + 16


def test_what_waits_on_disk_is_delivered(place: Place, sink: Any) -> None:
    """What is recorded while a sink is away waits on disk: every record arrives, each once."""
    recording = program(place, sink, FAST)
    until(sink.numbers)
    sink.leave()
    until(lambda: spool_bytes(place.folder))
    until_more_is_spooled(place)
    sink.come_back()
    recorded = stop_program(recording)
    wait(recording)
    until(lambda: all_is_delivered(place))
    assert sorted(sink.numbers()) == list(range(recorded))


def test_server_that_is_not_up_at_the_start(place: Place, jetstream: Any) -> None:
    """A server that comes seconds after its programs gets what they recorded before."""
    jetstream.leave()
    recording = program(place, jetstream)
    until(lambda: list((place.folder / "recorders" / ".spool").glob("*")))
    until(place.collectors)
    jetstream.come_back()
    recorded = stop_program(recording)
    wait(recording)
    until(lambda: all_is_delivered(place))
    assert sorted(jetstream.numbers()) == list(range(recorded))


def test_program_that_ends_while_its_server_is_not_up_yet(place: Place, jetstream: Any) -> None:
    """A short program that is over before its server comes: the collector goes on, and delivers."""
    jetstream.leave()
    recording = program(place, jetstream, timeout=0.2)
    until(place.collectors)
    recorded = stop_program(recording)
    wait(recording)
    assert place.collectors()
    jetstream.come_back()
    until(lambda: all_is_delivered(place))
    assert sorted(jetstream.numbers()) == list(range(recorded))


@pytest.mark.parametrize("kills", [1, 4])
def test_collector_killed_in_an_outage(place: Place, sink: Any, kills: int) -> None:
    """SIGKILL of the collector while records wait on disk: the next one delivers them, each once."""
    recording = program(place, sink, FAST)
    until(sink.numbers)
    sink.leave()
    for _ in range(kills):
        until_more_is_spooled(place)
        (collector,) = until(place.collectors)
        os.kill(collector, signal.SIGKILL)
        until(lambda before=collector: [pid for pid in place.collectors() if pid != before])
    sink.come_back()
    recorded = stop_program(recording)
    wait(recording)
    until(lambda: all_is_delivered(place))
    assert sorted(set(sink.numbers())) == list(range(recorded))
    if "otlp" not in sink.url:  # it knows no ids: what was under way at a kill may be there twice
        assert len(sink.numbers()) == recorded


def test_flush_sees_what_an_earlier_collector_had_on_disk(place: Place, jetstream: Any) -> None:
    """A program whose records wait on disk, and whose collector is killed, sees in its flush when they are delivered."""
    body = """
    bus = elastic_events.start(os.environ["URL"])
    print(bool(put_metric("m", 0) or bus.flush_sync(60)), flush=True)
    sys.stdin.readline()
    emit(100)
    sys.stdin.readline()
    print(bool(bus.flush_sync(10)), flush=True)
    """
    recorders = place.folder / "recorders"
    recording = place.start(body, URL=jetstream.url, ELASTIC_EVENTS_DIR=str(recorders))
    assert recording.stdin is not None
    assert recording.stdout is not None
    assert recording.stdout.readline() == "True\n"
    jetstream.leave()
    recording.stdin.write("\n")
    recording.stdin.flush()
    (ring,) = recorders.glob("*.ring")
    until(lambda: RecorderReader(ring).told("safe")[1] == 101)
    (collector,) = until(place.collectors)
    os.kill(collector, signal.SIGKILL)
    until(lambda: [pid for pid in place.collectors() if pid != collector])
    jetstream.come_back()
    until(lambda: len(jetstream.numbers()) == 101)
    out, _ = recording.communicate("\n", timeout=100)
    assert out == "True\n"


@pytest.mark.parametrize("run", ["run", "another"])
def test_what_is_left_after_the_patience_is_delivered_by_the_next_start(place: Place, jetstream: Any, run: str) -> None:
    """A collector whose patience is over leaves what it has in the directory; the next start there delivers it."""
    recorders = place.folder / "recorders"
    recorders.mkdir(0o700)
    patience = {"ELASTIC_EVENTS_PATIENCE": "0.5"}
    recording = program(place, jetstream, FAST, timeout=0.2, TORCHELASTIC_RUN_ID="run", **patience)
    until(jetstream.numbers)
    jetstream.leave()
    until(lambda: spool_bytes(place.folder))
    first = stop_program(recording)
    wait(recording)
    until(lambda: not place.collectors() and not place.supervisors())
    assert spool_bytes(place.folder)
    jetstream.come_back()
    recording = program(place, jetstream, TORCHELASTIC_RUN_ID=run)
    until(place.collectors)
    second = stop_program(recording)
    wait(recording)
    until(lambda: all_is_delivered(place))
    numbers = jetstream.numbers()
    assert len(numbers) == first + second
    assert set(numbers) == set(range(max(first, second)))
