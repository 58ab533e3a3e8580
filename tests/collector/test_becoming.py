"""What a program becomes, or comes to late: another program, a second bus, a collector that is gone, a new password."""

import textwrap
from pathlib import Path

import pytest

from elastic_events.bus.context import read_context
from elastic_events.bus.emit import Emitter
from elastic_events.bus.redact import Redactor
from elastic_events.recorder.reader import RecorderReader
from elastic_events.recorder.writer import open_rings
from tests.collector.programs import Place, place, until
from tests.collector.test_edges import ONE_LINE, lines

__all__ = ("place",)


def test_a_bus_of_ones_own_is_no_part_of_start(place: Place) -> None:
    """What goes to a bus that is opened beside `start()` reaches its handlers only."""
    body = """
    bus = elastic_events.start("sqlite:///run.db")
    emit(3)
    with EventBus("jsonl:///own.jsonl") as own: own.put_metric("own", 1); emit(1, "own")
    emit(2)
    """
    done = place.run(body)
    assert (done.returncode, done.stderr) == (0, "")
    assert (place.count(), place.count("own"), lines(place.folder / "own.jsonl")) == (5, 0, 2)


def test_a_program_that_becomes_another_has_not_died(place: Place) -> None:
    """After `os.execv` what was recorded before arrives, and no death is told: the process goes on."""
    program = place.start(ONE_LINE + 'emit(3)\nos.execv(sys.executable, [sys.executable, "-c", "input()"])')
    until(lambda: place.count() == 3)
    until(lambda: not place.directories)
    assert program.poll() is None
    assert place.events("worker.died") == 0
    program.communicate("\n", timeout=60)


def test_records_of_a_process_that_ended_in_order_are_not_recovered(tmp_path: Path) -> None:
    """Only what was found after a death is marked so."""
    for ended in (True, False):
        rings = open_rings(tmp_path, read_context())
        Emitter(rings[0].pipe, rings[1].pipe, Redactor()).put_metric("m", 1)
        if ended:
            rings[0].close()
        (record,) = RecorderReader(rings[0].path).look(dead=True)
        assert record.recovered is not ended


def test_a_program_that_nobody_collects_any_more_says_so(place: Place) -> None:
    """A program that begins to record when the run that it was started in is over tells where its records are."""
    body = """
    bus = elastic_events.start("sqlite:///run.db")
    emit(3)
    late = [sys.executable, "-c", "input(); from elastic_metrics import put_metric; put_metric('late', 1)"]
    child = subprocess.Popen(late, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    directory = os.path.dirname(bus.stats().recorder)
    assert elastic_events.stop(30)
    while os.path.exists(directory): time.sleep(0.01)
    print(child.communicate(b"\\n")[1].decode())
    """
    done = place.run(body)
    assert done.returncode == 0, done.stderr
    assert "nobody collects" in done.stdout
    assert "elastic-events collect --once" in done.stdout


#: A server that takes what comes under the key "new", and programs that send there.
KEYS = """
import http.server
class Server(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        ok = self.headers["X-Key"] == "new"
        taken.append(self.path) if ok else refused.append(self.path)
        self.send_response(200 if ok else 503); self.send_header("Content-Length", "0"); self.end_headers()
    def log_message(self, *args): pass
taken, refused = [], []
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"otlp+http://127.0.0.1:{server.server_port}"
code = "import elastic_events, os, sys; from elastic_metrics import put_metric\\n"
code += f"bus = elastic_events.start({url!r}, timeout=float(sys.argv[1])); put_metric('m', 1)\\n"
def program(key, deadline, end="input()"):
    own = {"ELASTIC_EVENTS_DIR": os.path.abspath("recorders"), "ELASTIC_EVENTS_RUN_ID": "r"}
    own["OTEL_EXPORTER_OTLP_HEADERS"] = f"x-key={key}"
    call = [sys.executable, "-c", code + end, deadline]
    return subprocess.Popen(call, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **own})
"""


def test_a_new_password_is_used(place: Place) -> None:
    """A program that asks for a sink that keeps failing, with another environment, has it opened anew, and all arrives."""
    body = """
    old = program("old", "0.1")
    while len(refused) < 6: time.sleep(0.01)
    old.communicate(b"\\n")
    new = program("new", "50")
    print(new.communicate(b"\\n")[1].decode(), len(taken) > 0)
    server.shutdown()
    server.server_close()
    """
    done = place.run(KEYS + textwrap.dedent(body), timeout=120)
    assert done.stdout.endswith(" True\n"), (done.stdout, done.stderr)
    assert "not delivered" not in done.stdout


@pytest.mark.parametrize("failures", [1, 6])
def test_a_new_password_outlives_its_program(place: Place, failures: int) -> None:
    """It is used however few times the sink has failed by then, and though the program with it died at once."""
    body = f"""
    old = program("old", "0.1")
    while len(refused) < {failures}: time.sleep(0.01)
    old.communicate(b"\\n")
    program("new", "0.1", "os._exit(0)").communicate()
    while not taken: time.sleep(0.01)
    server.shutdown()
    server.server_close()
    """
    done = place.run(KEYS + textwrap.dedent(body), timeout=60)
    assert done.returncode == 0, done.stderr
