"""An agent's recorder without torch: who delivers, what the exit waits for, and what is left behind."""

import gzip
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from elastic_events.reading.source import read_records
from tests.collector.programs import Place, place, until
from tests.servers.conftest import NatsServer

__all__ = ("place",)

#: An agent as the plug-in makes it, without what it changes in torch.
AGENT = """
from elastic_events.bus.context import read_context
from elastic_events.torchrun import agent_recorder
urls = os.environ.pop("URLS", "sqlite:///run.db").split(",")
home = agent_recorder._home(urls, read_context(), named=True)
home.follow({})
agent_recorder._close_at_exit(home, float(os.environ.get("DEADLINE", "5")))

def points(n):
    for number in range(n): home.to.put_metric("m", number)
"""

JOB = {"ELASTIC_EVENTS_RUN_ID": "job"}


def agent(place: Place, body: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run an agent to its end."""
    return place.run(AGENT + body, **JOB, **env)


@contextmanager
def held(place: Place) -> Iterator[sqlite3.Connection]:
    """A lock on the database, by a writer that ends with the block."""
    assert agent(place, "home.to.put_metric('first', 1)").returncode == 0
    connection = sqlite3.connect(place.database, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    with closing(connection):
        yield connection


@contextmanager
def server(seconds: float) -> Iterator[tuple[str, list[int]]]:
    """An OTLP server that takes `seconds` for each record; its URL, and how many records each request had."""
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    counts: list[int] = []

    class Slow(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path.endswith("/logs"):
                logs = ExportLogsServiceRequest.FromString(body).resource_logs
                count = sum(len(scope.log_records) for resource in logs for scope in resource.scope_logs)
            else:
                found = ExportMetricsServiceRequest.FromString(body).resource_metrics
                metrics = [metric for resource in found for scope in resource.scope_metrics for metric in scope.metrics]
                count = sum(len(metric.gauge.data_points) for metric in metrics)
            threading.Event().wait(seconds * count)
            counts.append(count)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        try:
            yield f"otlp+http://127.0.0.1:{http.server_port}", counts
        finally:
            http.shutdown()
            thread.join()


def nothing_is_left(place: Place) -> bool:
    """Whether neither a collector nor a directory of recorders is there."""
    return not place.collectors() and not place.directories


def test_a_sink_that_takes_its_time_gets_all_by_the_exit(place: Place) -> None:
    """The exit uses its deadline for a sink of two milliseconds a record: all 300 are there, and nothing is said or left."""
    with server(0.002) as (url, counts):
        done = agent(place, "points(300)", URLS=url, DEADLINE="60")
        assert (done.returncode, done.stderr) == (0, "")
        assert sum(counts) >= 300
    until(lambda: nothing_is_left(place))


def test_a_sink_that_is_away_costs_the_exit_its_deadline(place: Place) -> None:
    """Then the exit says in one line what is undelivered and where it is, and the collector goes on with it."""
    with held(place):
        body = "points(10)\nbegan = time.monotonic()\nhome.close(0.5)\nprint(time.monotonic() - began)"
        done = agent(place, body)
        assert 0.5 <= float(done.stdout) < 5
        (line,) = done.stderr.splitlines()
        assert "10 records" in line
        assert str(place.directories[0]) in line
    until(lambda: place.count() == 10)
    until(lambda: nothing_is_left(place))


def test_a_forked_child_is_no_end_of_the_agent(place: Place) -> None:
    """A child that ends closes nothing and waits for nothing; what the agent records afterwards arrives."""
    done = agent(
        place,
        "if os.fork() == 0: sys.exit()\nos.wait()\nprint(home.rings[0].file.closed)\npoints(5)",
    )
    assert (done.stdout, done.stderr) == ("False\n", "")
    assert place.count() == 5


def test_the_beginning_imports_nothing_heavy(place: Place) -> None:
    """An agent that begins imports no event loop and no database: all that is in the collector."""
    script = place.folder / "light.py"
    script.write_text(
        f"import os, sys\n{AGENT}print(*sorted({{'anyio', 'asyncio', 'sqlite3', 'click'}} & set(sys.modules)), 'none')"
    )
    done = subprocess.run(
        [sys.executable, script],
        cwd=place.folder,
        env=place.environment(**JOB),
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("none\n", "")


def test_agents_of_a_run_share_directory_and_collector(place: Place) -> None:
    """Two agents of one run on a host, and a worker of one that records for itself, have one collector and one sink."""
    say = "\nprint(os.environ['ELASTIC_EVENTS_DIR'], flush=True)\nsys.stdin.readline()\n"
    worker = "subprocess.run([sys.executable, '-c', 'import elastic_metrics as e; e.put_metric(\"m\", 1)'], check=True)"
    agents = [place.start(AGENT + "points(5)" + say + body, **JOB) for body in ("points(5)", worker)]
    first, second = (started.stdout.readline() for started in agents if started.stdout is not None)
    assert first == second
    until(lambda: len(place.collectors()) == 1)
    for started in agents:
        assert started.communicate("\n", timeout=60)[1] == ""
    assert place.count() == 16
    until(lambda: nothing_is_left(place))
    assert len(place.ask("SELECT * FROM ledgers")) == 1


def test_the_next_start_goes_on_with_what_a_killed_agent_left(place: Place) -> None:
    """An agent that is killed with its collector leaves a directory: the next start of the run delivers what is in it."""
    with held(place):
        killed = place.start(AGENT + "points(7)\nprint('ready', flush=True)\nsys.stdin.readline()", **JOB)
        assert killed.stdout is not None
        assert killed.stdout.readline() == "ready\n"
        until(place.collectors)
        for pid in (*place.supervisors(), killed.pid, *place.collectors()):
            os.kill(pid, signal.SIGKILL)
        killed.wait()
        until(lambda: not place.collectors())
    assert len(place.directories) == 1
    assert agent(place, "points(3)").returncode == 0
    assert place.count() == 10
    until(lambda: place.events("agent.died") == 1)
    until(lambda: nothing_is_left(place))


def test_a_server_that_comes_after_the_job(place: Place, tmp_path: Path) -> None:
    """A sink that is down while the whole job runs gets every record when it comes; none failed."""
    nats = NatsServer(tmp_path / "js")
    url = f"{nats.url}/late"
    done = agent(place, "points(200)", URLS=url, DEADLINE="0.5")
    assert "200 records not delivered yet" in done.stderr
    nats.start()
    try:
        until(lambda: nothing_is_left(place))
        records = list(read_records(url))
    finally:
        nats.stop()
    assert sum(record.name == "m" for record in records) == 200
    (ledger,) = (record.fields[0] for record in records if record.kind == "ledger")
    assert (ledger["failed"], ledger["dropped"]) == (0, {})


def test_a_full_disk_that_gets_room(place: Place) -> None:
    """A file on a disk that is full when the agent begins gets every record when there is room; none failed."""
    small = place.folder / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        ballast, file = small / "ballast", small / "run.jsonl"
        with pytest.raises(OSError, match="No space left"):
            ballast.write_bytes(bytes(300_000))
        done = agent(place, "points(200)", URLS=f"jsonl:///{file}", DEADLINE="0.5")
        assert "200 records not delivered yet" in done.stderr
        ballast.unlink()
        until(lambda: nothing_is_left(place))
        records = list(read_records(file))
        assert sum(record.name == "m" for record in records) == 200
        (ledger,) = (record.fields[0] for record in records if record.kind == "ledger")
        assert ledger["failed"] == 0
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


NO_SHELL = "from elastic_events.recorder import launch\nlaunch.SHELL = '/no/such/shell'\n"


def test_without_a_collector_a_thread_of_the_agent_delivers(place: Place) -> None:
    """Where no process can be started the thread has all of it, the workers' records too, with one warning."""
    worker = "subprocess.run([sys.executable, '-c', 'import elastic_metrics as e; e.put_metric(\"m\", 1)'], check=True)"
    done = place.run(NO_SHELL + AGENT + "points(10)\n" + worker, **JOB)
    (line,) = done.stderr.splitlines()
    assert "a thread of the agent" in line
    assert "/no/such/shell" in line
    assert place.count() == 11
    assert nothing_is_left(place)


def test_what_goes_to_the_agents_stream_is_delivered_by_its_thread(place: Place) -> None:
    """The log of a container is a sink: a collector process, whose stdout is another, would deliver to nobody."""
    worker = "subprocess.run([sys.executable, '-c', 'import elastic_metrics as e; e.put_metric(\"m\", 1)'], check=True)"
    done = agent(place, f"points(10)\n{worker}", URLS="jsonl:stdout,sqlite:///run.db")
    assert sum('"name":"m"' in line for line in done.stdout.splitlines()) == 11
    (line,) = done.stderr.splitlines()
    assert "a thread of the agent" in line
    assert "this program's own" in line
    assert place.count() == 11
    assert nothing_is_left(place)


def test_an_unusable_directory_leaves_the_thread(place: Place) -> None:
    """A directory that others can write to holds no recorder: the thread delivers, and the workers are not told of it."""
    shared = place.folder / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    done = agent(place, "points(10)\nprint('ELASTIC_EVENTS_DIR' in os.environ)", ELASTIC_EVENTS_DIR=str(shared))
    (line,) = done.stderr.splitlines()
    assert "chmod 700" in line
    assert done.stdout == "False\n"
    assert place.count() == 10


def test_a_launcher_that_collects_by_itself_has_the_agents_records(place: Place) -> None:
    """Under a bus that collects the directory in its own loop an agent only records; its exit waits for nobody."""
    directory = place.folder / "recorders"
    script = place.folder / "agent.py"
    script.write_text(f"import os, time\n{AGENT}points(10)\n")
    done = place.run(
        f"""
        import anyio
        async def main():
            async with EventBus("sqlite:///run.db") as bus:
                await bus.collect({str(directory)!r})
                while not os.path.exists({str(directory / ".collector")!r}):
                    await anyio.sleep(0.01)
                environ = dict(os.environ, ELASTIC_EVENTS_DIR={str(directory)!r}, URLS="jsonl:///left.out")
                done = await anyio.run_process([sys.executable, {str(script)!r}], env=environ)
                print(done.stderr.decode())
        anyio.run(main)
        """,
        **JOB,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("are left out") == 1
    until(lambda: place.count() == 10)
    assert not (place.folder / "left.out").exists()
