"""Edges between programs and their collector: two of a thing, one that comes as the other goes, a sink that is wrong."""

import os
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from elastic_events.bus.context import read_context
from elastic_events.bus.emit import Emitter
from elastic_events.bus.redact import Redactor
from elastic_events.recorder.writer import open_rings
from tests.collector.programs import Place, place, until

__all__ = ("place",)

ONE_LINE = 'bus = elastic_events.start("sqlite:///run.db")\n'
WAIT = "print('ready', flush=True)\nsys.stdin.readline()\n"


def lines(path: Path) -> int:
    """How many metric points a JSON Lines file has."""
    return path.read_text().count('"kind":"metric"') if path.exists() else 0


def orphan(folder: Path) -> None:
    """Leave a ring of a process that is dead by now, whose records nobody asked for."""
    child = os.fork()
    if child == 0:
        events, metrics = open_rings(folder, read_context())
        Emitter(events.pipe, metrics.pipe, Redactor()).put_metric("orphan", 1)
        os._exit(0)
    os.waitpid(child, 0)


def test_a_sink_that_another_program_adds_misses_nothing(place: Place) -> None:
    """While its collector opens a sink that it did not have, a program's records stay in the ring, for that sink, too."""
    shared = str(place.folder / "recorders")
    first = place.start(ONE_LINE + WAIT, ELASTIC_EVENTS_DIR=shared, ELASTIC_EVENTS_RUN_ID="r")
    assert first.stdout is not None
    first.stdout.readline()
    for number in range(3):
        second = f'elastic_events.start("sqlite:///run.db", "jsonl:///{number}.jsonl")\nemit(9, "n{number}")'
        done = place.run(second, ELASTIC_EVENTS_DIR=shared, ELASTIC_EVENTS_RUN_ID="r")
        assert (done.returncode, done.stderr) == (0, "")
        assert (lines(place.folder / f"{number}.jsonl"), place.count(f"n{number}")) == (9, 9)
    first.communicate("\n", timeout=60)


def test_a_sink_that_is_wrong_is_said_at_once(place: Place) -> None:
    """A wrong URL, at the start or later, a missing directory, a ring of no size: the caller is told, and nothing stays."""
    body = """
    from elastic_events import ConfigError
    before = dict(os.environ)
    for call in (
        lambda: elastic_events.start("natz://x"),
        lambda: elastic_events.start("sqlite:///no/such/run.db"),
        lambda: elastic_events.start("sqlite:///run.db", capacity=1000, drain="process"),
        lambda: elastic_events.start("sqlite:///run.db", redact="("),
        lambda: elastic_events.start("console:", drain="process"),
        lambda: elastic_events.start("sqlite:///run.db", drain="nowhere"),
    ):
        try: call()
        except Exception as error: print(type(error).__name__)
        else: elastic_events.stop(); print("no error")
    assert dict(os.environ) == before
    bus = elastic_events.start("sqlite:///run.db")
    try: bus.subscribe("natz://x")
    except ConfigError as error: print(error)
    emit(5)
    """
    done = place.run(body)
    said = done.stdout.splitlines()
    assert said[:2] == ["ConfigError", "ConfigError"]
    assert said[3] in ("error", "PatternError")  # of `re`, which has renamed it
    assert said[4:6] == ["ConfigError", "ConfigError"]
    assert "natz" in said[6]
    assert (done.returncode, place.count()) == (0, 5)
    assert place.events("worker.died") == 0


def test_what_only_this_process_can_serve_is_served_here(place: Place) -> None:
    """The console, and a scheme that the program added itself, are drained by its own thread."""
    body = """
    from elastic_events.sinks.urls import SCHEMES
    from elastic_events.sinks.jsonl import JsonlSink
    SCHEMES["mine"] = lambda url: JsonlSink("mine.jsonl")
    elastic_events.start("console:stdout", "mine:x")
    emit(5)
    """
    done = place.run(body)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("m=") + done.stdout.count(" m ") >= 5
    assert lines(place.folder / "mine.jsonl") == 5


def test_a_program_that_comes_as_the_collector_goes(place: Place) -> None:
    """Programs of one directory that start while the last collector ends are collected, each at once."""
    shared = str(place.folder / "recorders")
    for number in range(3):
        done = place.run(ONE_LINE + f"emit(9, 'n{number}')", ELASTIC_EVENTS_DIR=shared, ELASTIC_EVENTS_RUN_ID="r")
        assert (done.returncode, done.stderr) == (0, "")
        assert place.count(f"n{number}") == 9


def test_a_child_that_can_have_no_ring_is_drained_by_a_thread(place: Place) -> None:
    """Where a forked child's ring has no room, nothing is raised: it warns once, and its records arrive."""
    body = (
        ONE_LINE
        + """
emit(3)
import elastic_events.recorder.writer as writer
def full(*args): raise OSError(28, "No space left on device")
writer.os.posix_fallocate = full
if os.fork() == 0:
    emit(5, "child")
    assert elastic_events.current_bus().flush_sync(20)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    )
    done = place.run(body)
    assert done.stdout == "0\n", done.stderr
    assert done.stderr.count("RuntimeWarning") == 1
    assert (place.count(), place.count("child")) == (3, 5)


@pytest.mark.parametrize("closed", ["0", "2", "0, 2"])
def test_a_program_without_standard_descriptors_has_one_collector(place: Place, closed: str) -> None:
    """A program whose input or errors are closed gets its lock above them, and one collector; nobody's file is written to."""
    body = f"""
    for descriptor in ({closed},): os.close(descriptor)
    {ONE_LINE}
    emit(5)
    sys.stdout.write("ready\\n"); sys.stdout.flush()
    time.sleep(1)
    bus.flush_sync(20)
    """
    program = place.start(body.replace("\n    ", "\n"))
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    seen = 0
    while program.poll() is None:
        seen = max(seen, len(place.collectors()))
        time.sleep(0.02)
    assert seen == 1
    assert place.count() == 5


def test_a_killed_collector_that_spooled(place: Place) -> None:
    """What a killed collector had spooled is delivered by the next, which says so: flush, ledger and exit agree."""
    shared = place.folder / "recorders"
    assert place.run(ONE_LINE + "emit(1, 'first')").returncode == 0
    held = sqlite3.connect(place.database, isolation_level=None)
    held.execute("BEGIN IMMEDIATE")
    program = place.start(
        'bus = elastic_events.start("sqlite:///run.db?busy_timeout=50ms")\nemit(50)\n'
        + WAIT
        + "print(bool(bus.flush_sync(60)))",
        ELASTIC_EVENTS_DIR=str(shared),
    )
    assert program.stdout is not None
    program.stdout.readline()
    until(lambda: any(path.stat().st_size for path in shared.glob(".spool/*/*.spool")))
    (collector,) = place.collectors()
    os.kill(collector, signal.SIGKILL)
    until(lambda: [pid for pid in place.collectors() if pid != collector])
    held.execute("ROLLBACK")
    held.close()
    out, err = program.communicate("\n", timeout=100)
    assert (out, err.count("not delivered")) == ("True\n", 0)
    assert place.count() == 50
    until(lambda: not list(shared.iterdir()))


def test_records_go_where_their_process_asked(place: Place) -> None:
    """A child program that calls its run otherwise, and what was recorded before `start`, reach the sinks all the same."""
    body = """
    emit(7, "before")
    bus = elastic_events.start("sqlite:///run.db")
    child = "from elastic_metrics import put_metric\\nfor n in range(7): put_metric('child', n)"
    subprocess.run([sys.executable, "-c", child], env={**os.environ, "ELASTIC_EVENTS_RUN_ID": "another"})
    """
    done = place.run(body, ELASTIC_EVENTS_DIR=str(place.folder / "recorders"))
    assert (done.returncode, done.stderr) == (0, "")
    until(lambda: (place.count("before"), place.count("child")) == (7, 7))


def test_a_ring_that_nobody_asked_for_costs_nobody_time(place: Place) -> None:
    """What lies in the directory for no sink stays there; a program ends as if it were not."""
    shared = place.folder / "recorders"
    orphan(shared)
    body = ONE_LINE + "emit(5)\nbus.flush_sync(30)\nbegan = time.monotonic()\nelastic_events.stop(30)\n"
    body += "print(time.monotonic() - began)"
    done = place.run(body, ELASTIC_EVENTS_DIR=str(shared))
    assert float(done.stdout) < 15
    assert (done.stderr, place.count(), place.count("orphan")) == ("", 5, 0)
    until(lambda: not place.collectors())
    assert len(list(shared.glob("*.ring"))) == 1


def test_threads_that_start_at_once_have_one_bus(place: Place) -> None:
    """Eight threads that call `start` together have one bus; what the others had begun is no death."""
    body = """
    barrier, found = threading.Barrier(8), []
    def begin():
        barrier.wait()
        found.append(elastic_events.start("sqlite:///run.db"))
    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print(len(set(map(id, found))))
    emit(5)
    """
    done = place.run(body)
    assert (done.stdout, done.stderr) == ("1\n", "")
    until(lambda: not (place.collectors() or place.directories))
    assert (place.count(), place.events("worker.died")) == (5, 0)


def test_a_relative_directory_is_collected(place: Place) -> None:
    """A directory named from the working directory is the program's, wherever it goes then, not the collector's."""
    done = place.run(ONE_LINE + "os.chdir('/')\nemit(5)", ELASTIC_EVENTS_DIR="recorders")
    assert (done.returncode, done.stderr, place.count()) == (0, "", 5)
    until(lambda: not list((place.folder / "recorders").iterdir()))


def test_stop_and_start_again(place: Place) -> None:
    """Started and stopped in turn, each bus delivers its own; the environment is the program's again, no death is told."""
    body = """
    before = dict(os.environ)
    for n in range(3):
        elastic_events.start("sqlite:///run.db")
        emit(5, f"n{n}")
        assert elastic_events.stop(30)
        assert dict(os.environ) == before
    """
    done = place.run(body)
    assert (done.returncode, done.stderr) == (0, "")
    assert [place.count(f"n{number}") for number in range(3)] == [5, 5, 5]
    assert place.events("worker.died") == 0


def test_what_was_given_up_stays_in_its_ring(place: Place) -> None:
    """With the sink away for good and no room for the spool, the ring is kept, and the next collector delivers it."""
    shared = place.folder / "recorders"
    assert place.run(ONE_LINE + "emit(1, 'first')").returncode == 0
    held = sqlite3.connect(place.database, isolation_level=None)
    held.execute("BEGIN IMMEDIATE")
    shared.mkdir(0o700)
    (shared / ".spool").touch()  # no directory can be made of that name
    body = 'bus = elastic_events.start("sqlite:///run.db?busy_timeout=50ms", timeout=0.5)\nemit(10)'
    done = place.run(body, ELASTIC_EVENTS_DIR=str(shared), ELASTIC_EVENTS_PATIENCE="1")
    assert "not delivered" in done.stderr
    until(lambda: not place.collectors())
    assert len(list(shared.glob("*.ring"))) == 1
    held.execute("ROLLBACK")
    held.close()
    (shared / ".spool").unlink()
    done = place.run(ONE_LINE.replace("run.db", "run.db?busy_timeout=50ms"), ELASTIC_EVENTS_DIR=str(shared))
    until(lambda: place.count() == 10)


def test_what_was_recorded_before_start_is_waited_for(place: Place) -> None:
    """A flush knows of the records from before `start`, too: with the sink away it says that they are not delivered."""
    assert place.run(ONE_LINE + "emit(1, 'first')").returncode == 0
    held = sqlite3.connect(place.database, isolation_level=None)
    held.execute("BEGIN IMMEDIATE")
    body = """
    emit(7, "early")
    bus = elastic_events.start("sqlite:///run.db?busy_timeout=50ms", timeout=0.3)
    print(bool(bus.flush_sync(0.5)))
    """
    done = place.run(body, ELASTIC_EVENTS_DIR=str(place.folder / "recorders"))
    assert done.stdout == "False\n"
    assert "7 records" in done.stderr
    held.execute("ROLLBACK")
    held.close()
    until(lambda: place.count("early") == 7)


def test_a_child_without_a_ring_raises_nothing_where_warnings_are_errors(place: Place) -> None:
    """With `-W error` the warning of a child that can have no ring reaches nobody, and its records arrive."""
    body = (
        ONE_LINE
        + """
warnings.simplefilter("error")
import elastic_events.recorder.writer as writer
def full(*args): raise OSError(28, "No space left on device")
writer.os.posix_fallocate = full
if os.fork() == 0:
    emit(5, "child")
    ok = bool(elastic_events.current_bus().flush_sync(20))
    os._exit(0 if ok else 1)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    )
    done = place.run(body)
    assert done.stdout == "0\n", done.stderr
    assert place.count("child") == 5


def test_runs_have_their_own_credentials(place: Place) -> None:
    """Two runs in one directory that send to one place, each with a header of its own: neither goes under the other's."""
    body = """
    import http.server
    class Server(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            seen.add(self.headers["X-Key"])
            self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
        def log_message(self, *args): pass
    seen = set()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"otlp+http://127.0.0.1:{server.server_port}"
    code = f"import elastic_events; from elastic_metrics import put_metric; elastic_events.start({url!r}, timeout=30);"
    code += "put_metric('m', 1); input()"
    def program(key):
        own = {"ELASTIC_EVENTS_DIR": os.path.abspath("recorders"), "ELASTIC_EVENTS_RUN_ID": key}
        own["OTEL_EXPORTER_OTLP_HEADERS"] = f"x-key={key}"
        return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, env={**os.environ, **own})
    programs = [program(key) for key in ("A", "B")]
    for program in programs: program.communicate(b"\\n")
    print(sorted(seen))
    server.shutdown()
    server.server_close()
    """
    done = place.run(body)
    assert done.stdout == "['A', 'B']\n", done.stderr
