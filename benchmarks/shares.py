"""What share of the physical limit does a sink reach? Processor time a record, beside the least that its medium takes.

`python -m benchmarks.shares [--quick]`. The same records go through a bus, out of its ring, and bare: into a handler that does
nothing, beside decoding their msgpack; into JSON Lines, beside msgspec's lines of finished objects and a write; into SQLite,
beside `executemany` of finished rows into the same schema. In turn, several rounds, medians; all threads of the process count.
The share is the bare cost by ours: 100 % would be a bus that costs nothing.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import msgspec

from benchmarks.measure import Row, print_table, table
from elastic_events import Event, EventBus, EventSource
from elastic_events.bus.codec import decode
from elastic_events.bus.pump import to_records
from elastic_events.sinks.sqlite_schema import COLUMNS, TABLES, connect, create, find_context, prepare, to_row
from elastic_events.sinks.stored import to_lines

#: Lines or rows of a bare write, as many as a lane gives a sink.
WRITE = 4096

METADATA = {"rank": 3, "role": "trainer", "loss": 0.25, "phase": "forward", "step": 100}


def run(quick: bool = False) -> list[Row]:
    """Return nanoseconds of processor time a record, ours and bare: rows have `subject`, `ours`, `bare`, `share`."""
    rounds, records = (1, 5_000) if quick else (9, 16_000)  # as many as a recorder's ring holds
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for kind in ("metric", "event"):
            for name in _SINKS:
                with tempfile.TemporaryDirectory() as folder:
                    found.setdefault(f"{name}, {kind}s", []).append(_pair(name, kind, records, Path(folder)))
    rows = []
    for name, pairs in found.items():
        ours, bare = (statistics.median(costs) for costs in zip(*pairs, strict=True))
        rows.append({"subject": name, "ours": ours, "bare": bare, "share": bare / ours})
    return rows


def _pair(name: str, kind: str, records: int, folder: Path) -> tuple[float, float]:
    bus = EventBus(capacity=2**14, recorder=False, interval=0.01)
    handler, bare = _SINKS[name](folder)
    bus.subscribe(handler, **({"batch_size": 500} if callable(handler) else {}))
    event = Event("step.ended", EventSource.WORKER, metadata=METADATA)
    for number in range(records):
        bus.record(event) if kind == "event" else bus.put_metric("loss", number * 0.5, "train")
    frames: list[Any] = [frame for frame in bus._rings[kind == "metric"].frames(0, records) if frame is not None]
    limit = bare(frames, bus)
    ours = anyio.run(_drain, bus)
    (lane,) = bus.stats().lanes.values()
    assert lane.delivered == records, lane
    return ours / records, limit / records


async def _drain(bus: EventBus) -> float:
    began = time.process_time_ns()
    async with bus:
        assert await bus.flush(300)
        return time.process_time_ns() - began


def _clocked(call: Callable[[], object]) -> float:
    began = time.process_time_ns()
    call()
    return time.process_time_ns() - began


# --- each sink, and what is bare of it ---


def _nothing(_folder: Path) -> Any:
    async def nothing(_records: Any) -> None:
        pass

    return nothing, lambda frames, _bus: _clocked(lambda: [decode(frame) for frame in frames])


def _jsonl(folder: Path) -> Any:
    def bare(frames: list[Any], bus: EventBus) -> float:
        lines = to_lines(to_records(frames, bus.context, 0)).splitlines()
        finished = list(map(msgspec.json.decode, lines))
        encoder = msgspec.json.Encoder()
        descriptor = os.open(folder / "bare.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def write() -> None:
            for begin in range(0, len(finished), WRITE):
                os.write(descriptor, encoder.encode_lines(finished[begin : begin + WRITE]))

        try:
            return _clocked(write)
        finally:
            os.close(descriptor)

    return f"jsonl:///{folder}/ours.jsonl", bare


def _sqlite(folder: Path) -> Any:
    def bare(frames: list[Any], bus: EventBus) -> float:
        records = to_records(frames, bus.context, 0)
        kind = records[0].kind
        create(folder / "bare.db")
        connection = connect(folder / "bare.db", 10.0)
        prepare(connection, folder / "bare.db")
        place = find_context(connection, bus.context)
        rows = [(*place, *to_row(record)) for record in records]
        columns = ", ".join(("origin", "context", *COLUMNS[kind]))
        marks = ", ".join("?" * len(rows[0]))

        def write() -> None:
            for begin in range(0, len(rows), WRITE):
                connection.execute("BEGIN")
                connection.executemany(
                    f"INSERT INTO {TABLES[kind]} ({columns}) VALUES ({marks})", rows[begin : begin + WRITE]
                )
                connection.execute("COMMIT")

        try:
            return _clocked(write)
        finally:
            connection.close()

    return f"sqlite:///{folder}/ours.db", bare


_SINKS = {"a handler that does nothing": _nothing, "JSON Lines": _jsonl, "SQLite": _sqlite}


def report(rows: list[Row]) -> str:
    """Return the table."""
    columns = {
        "share": lambda row: f"{row['share']:.0%}",
        "ours, ns": lambda row: f"{row['ours']:.0f}",
        "bare, ns": lambda row: f"{row['bare']:.0f}",
    }
    return table("Share of the physical limit", rows, columns)


if __name__ == "__main__":
    print_table(report(run("--quick" in sys.argv)))
