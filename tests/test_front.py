"""`record()` and `put_metric()` alone: what a worker loads, where it writes, and what a bus in it changes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from elastic_events.recorder.reader import RecorderReader

HEAVY = ("anyio", "asyncio", "concurrent.futures", "elastic_events.bus.lane", "elastic_events.bus.drain")


def readers(folder: Path) -> list[RecorderReader]:
    """Return a reader of each recorder in a folder."""
    return [RecorderReader(path) for path in sorted(folder.glob("*.ring"))]


def run(program: str, folder: Path, **env: str) -> Any:
    """Run a program that prints JSON, beside nothing else."""
    path = os.pathsep.join(filter(None, sys.path))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ELASTIC_EVENTS_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**clean, "PYTHONPATH": path, **env},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "imports",
    [
        "from elastic_events.front import record, put_metric; from elastic_events.api import Event",
        "from elastic_events import Event, record, step; from elastic_metrics import put_metric, prof",
    ],
)
def test_worker_that_only_records_loads_no_event_loop(imports: str, tmp_path: Path) -> None:
    """With a directory for recorders, a worker records without an event loop, a thread or a drain being loaded."""
    program = f"""
import json, sys
{imports}
record(Event("e", "WORKER"))
put_metric("m", 1)
print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""
    folder = tmp_path / "recorders"
    assert run(program, tmp_path, ELASTIC_EVENTS_DIR=str(folder)) == []
    names = [record.name for reader in readers(folder) for record in reader.all_dead()]
    assert sorted(names) == ["e", "m"]


def test_bus_alone_records(tmp_path: Path) -> None:
    """A bus that is imported from its own module has its recorder: nothing else must be imported for it."""
    program = f"""
import json
from elastic_events.bus.bus import EventBus
bus = EventBus(recorder={str(tmp_path / "recorders")!r})
bus.put_metric("m", 1)
print(json.dumps(bus.stats().recorder))
"""
    assert Path(run(program, tmp_path)).parent == tmp_path / "recorders"


def test_reading_alone_gives_events(tmp_path: Path) -> None:
    """Records that are read back have their events, whatever else was imported."""
    (tmp_path / "run.jsonl").write_text(
        run(
            """
import json
from elastic_events.testing import capture
from elastic_events import Event, record
from elastic_events.sinks import to_json
with capture() as seen:
    record(Event("e", "WORKER", 5, {"a": 1}))
    print(json.dumps(to_json(seen[0]).decode()))
""",
            tmp_path,
        )
        + "\n"
    )
    program = """
import json
from elastic_events.sinks import read_jsonl
print(json.dumps([record.event.serialize() for record in read_jsonl("run.jsonl")]))
"""
    found = [json.loads(text) for text in run(program, tmp_path)]
    assert found == [{"name": "e", "source": "WORKER", "timestamp": 5, "metadata": {"a": 1}}]


def test_bus_of_its_own_writes_to_the_jobs_recorder_as_well(tmp_path: Path) -> None:
    """Where the environment names a directory of recorders, a bus serves its handlers and writes there, in one file."""
    program = """
import json
import elastic_events
from elastic_events import Event, EventBus, record
from elastic_events.testing import ListSink
record(Event("before", "WORKER"))
sink = ListSink()
with EventBus(sink):
    record(Event("during", "WORKER"))
with EventBus(recorder=False) as quiet:
    record(Event("elsewhere", "WORKER"))
record(Event("after", "WORKER"))
print(json.dumps([[r.name, r.id] for r in sink.payload]))
"""
    folder = tmp_path / "recorders"
    delivered = run(program, tmp_path, ELASTIC_EVENTS_DIR=str(folder))
    files = readers(folder)
    recorded = [[record.name, record.id] for reader in files for record in reader.all_dead()]
    assert [name for name, _ in recorded] == ["before", "during", "after"]
    assert delivered == [recorded[1]]
    assert len(files) == 1
    assert files[0].closed


def test_two_buses_at_once_have_a_recorder_each(tmp_path: Path) -> None:
    """A second bus beside one that writes to the process's recorder has a file of its own: each keeps its own records."""
    program = """
import json
from elastic_events import EventBus
from elastic_metrics import put_metric
from elastic_events.testing import ListSink
first, second = ListSink(), ListSink()
with EventBus(first):
    put_metric("one", 1)
    with EventBus(second):
        put_metric("two", 2)
    put_metric("three", 3)
print(json.dumps([[r.name for r in sink.payload] for sink in (first, second)]))
"""
    folder = tmp_path / "recorders"
    assert run(program, tmp_path, ELASTIC_EVENTS_DIR=str(folder)) == [["one", "three"], ["two"]]
    found = sorted([r.name for r in reader.all_dead()] for reader in readers(folder))
    assert found == [["one", "three"], ["two"]]
