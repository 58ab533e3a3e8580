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


def test_what_is_recorded_while_the_recorder_opens(tmp_path: Path) -> None:
    """Threads that record while the file is made, on a slow disk, wait for nothing; each record is there, or is counted."""
    program = """
import json, threading
import elastic_events.front as front
from elastic_metrics import put_metric
real, opening, go = front.open_recorder, threading.Event(), threading.Event()
def slow(*arguments):
    opening.set()
    assert go.wait(60)
    return real(*arguments)
front.open_recorder = slow
first = threading.Thread(target=put_metric, args=("first", 0))
first.start()
assert opening.wait(60)
for number in range(20_000): put_metric("m", number)
go.set()
first.join()
put_metric("last", 1)
print(json.dumps(front.front._rings[1].head))
"""
    folder = tmp_path / "recorders"
    assert run(program, tmp_path, ELASTIC_EVENTS_DIR=str(folder)) == 20_002
    (reader,) = readers(folder)
    records = list(reader.all_dead())
    assert [one.metric.value for one in records if one.name == "m"] == list(range(16_384))
    assert len(records) + reader.lost["interrupted"] == 20_002
    assert records[-1].name == "last"


def test_recorder_that_was_interrupted_as_it_opened(tmp_path: Path) -> None:
    """Ctrl-C that strikes while the recorder opens reaches the program, and the next record opens it."""
    program = """
import json, signal
import elastic_events.front as front
from elastic_events import Event, record
real = front.open_recorder
def struck(*arguments):
    front.open_recorder = real
    signal.raise_signal(signal.SIGINT)
front.open_recorder = struck
try: record(Event("first", "WORKER"))
except KeyboardInterrupt: caught = True
record(Event("second", "WORKER"))
print(json.dumps(caught))
"""
    folder = tmp_path / "recorders"
    assert run(program, tmp_path, ELASTIC_EVENTS_DIR=str(folder)) is True
    assert [one.name for reader in readers(folder) for one in reader.all_dead()] == ["second"]


@pytest.mark.parametrize("copied", ["pickle.loads(pickle.dumps({0}))", "copy.deepcopy({0})", "copy.copy({0})"])
def test_functions_are_copied_by_name(copied: str, tmp_path: Path) -> None:
    """What is pickled or copied of `record` and `put_metric`, within an object too, is the function itself."""
    program = f"""
import copy, json, pickle
from elastic_events import record, record_rdzv_event
from elastic_metrics import put_metric
found = []
for function in (record, put_metric, record_rdzv_event):
    found += [{copied.format("function")} is function, {copied.format("[function]")}[0] is function]
print(json.dumps(found))
"""
    assert run(program, tmp_path) == [True] * 6


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_functions_in_a_pool(method: str, tmp_path: Path) -> None:
    """Sent to the workers of a pool, the functions record there."""
    program = f"""
import json, multiprocessing
from elastic_events import Event, record
from elastic_metrics import put_metric
if __name__ == "__main__":
    with multiprocessing.get_context("{method}").Pool(1) as pool:
        pool.apply(put_metric, ("m", 1))
        pool.apply(record, (Event("e", "WORKER"),))
    print(json.dumps(True))
"""
    (tmp_path / "program.py").write_text(program)
    folder = tmp_path / "recorders"
    start = "import runpy; runpy.run_path('program.py', run_name='__main__')"
    assert run(start, tmp_path, ELASTIC_EVENTS_DIR=str(folder)) is True
    assert sorted(one.name for reader in readers(folder) for one in reader.rest() if "." not in one.name) == ["e", "m"]


def test_what_another_thread_puts_while_the_recorder_opens_is_kept(tmp_path: Path) -> None:
    """The thread that opens the recorder forwards what the others recorded meanwhile, of the other ring too."""
    program = """
import threading
from elastic_events import Event, EventSource, front, record
from elastic_metrics import put_metric

opened = front.open_recorder

def open_slowly(*args):
    other = threading.Thread(target=put_metric, args=("meanwhile", 1))
    other.start()
    other.join(30)
    return opened(*args)

front.open_recorder = open_slowly
record(Event("first", EventSource.WORKER))
print([ring.head for ring in front.front._rings])
"""
    assert run(program, tmp_path, ELASTIC_EVENTS_DIR=str(tmp_path / "recorders")) == [1, 1]


def test_what_opens_a_recorder_is_loaded_before_a_thread_can_fork(tmp_path: Path) -> None:
    """The first record loads no module: a child that is forked in the midst of that could import it never more."""
    program = """
import json, sys
from elastic_events.front import record
from elastic_events.api import Event
before = set(sys.modules)
record(Event("e", "WORKER"))
print(json.dumps(sorted(name for name in set(sys.modules) - before if name.startswith("elastic_events"))))
"""
    assert run(program, tmp_path, ELASTIC_EVENTS_DIR=str(tmp_path / "recorders")) == []


@pytest.mark.parametrize("module", ["elastic_events.recorder.writer", "elastic_events.recording"])
def test_a_child_that_was_forked_while_its_parent_loaded_does_not_wait(module: str, tmp_path: Path) -> None:
    """Where the lock of a module is held by a thread that is not here, the child's records go without it, and nobody hangs."""
    program = f"""
import json, os, signal, sys, threading, warnings
import elastic_events.recorder.writer, elastic_events.recording
from importlib import _bootstrap
from elastic_events.front import record
from elastic_events.api import Event
held = []
def load():  # as a thread does that is half way through it
    held.append(_bootstrap._get_module_lock({module!r}))
    held[0].acquire()
    sys.modules[{module!r}].__spec__._initializing = True
thread = threading.Thread(target=load)
thread.start()
thread.join()
warnings.simplefilter("ignore")
child = os.fork()
if child == 0:
    signal.alarm(20)
    if {module!r} == "elastic_events.recording":
        os.environ.pop("ELASTIC_EVENTS_DIR")
        from elastic_events.front import front
        front.point()
    record(Event("e", "WORKER"), "console")
    os._exit(0)
print(json.dumps(os.waitpid(child, 0)[1]))
"""
    assert run(program, tmp_path, ELASTIC_EVENTS_DIR=str(tmp_path / "recorders")) == 0


def test_threads_of_a_child_that_load_at_once_lose_nothing(tmp_path: Path) -> None:
    """What a thread of the child itself loads will be there: the second one's event was dropped, and nobody was told."""
    program = """
import json, os, sys, threading
from elastic_events.front import record
from elastic_events.api import Event
read, write = os.pipe()
child = os.fork()
if child == 0:
    os.dup2(write, 2)
    begun, go_on = threading.Event(), threading.Event()
    class Slow:
        def find_spec(self, name, *_):
            if name == "elastic_events.handlers":
                begun.set()
                go_on.wait(30)
    sys.meta_path.insert(0, Slow())
    def emit(name): record(Event(name, "WORKER"), "console")
    first, second = (threading.Thread(target=emit, args=(name,)) for name in ("first", "second"))
    first.start()
    begun.wait(30)
    second.start()
    second.join(0.5)  # where it is not dropped, it waits for the first
    go_on.set()
    first.join()
    second.join()
    sys.exit()
os.close(write)
os.waitpid(child, 0)
with open(read) as told:
    print(json.dumps(sorted(json.loads(line)["name"] for line in told)))
"""
    assert run(program, tmp_path) == ["first", "second"]
