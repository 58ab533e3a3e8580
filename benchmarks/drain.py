"""How fast does the drain deliver? Metric points a second through a handler that does nothing, and into files.

`python -m benchmarks.drain`. The ring is made large enough for all points, so that nothing is overwritten.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio

from benchmarks.measure import Row, print_table, table
from elastic_events import EventBus


def run(quick: bool = False) -> list[Row]:
    """Return points a second, the median of the rounds, by handler: rows have `subject`, `per_second`."""
    rounds, points = (1, 10_000) if quick else (3, 50_000)  # which a backlog holds
    rates: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, handlers, options in (
            ("one handler, batches of 500", 1, {"batch_size": 500}),
            ("one handler, batches of 50", 1, {"batch_size": 50}),
            ("one handler, a call a record", 1, {}),
            ("eight handlers, batches of 500", 8, {"batch_size": 500}),
        ):
            rates.setdefault(name, []).append(anyio.run(_through, handlers, options, points))
        for url in ("sqlite", "jsonl"):
            with tempfile.TemporaryDirectory() as folder:
                rates.setdefault(url, []).append(anyio.run(_into, f"{url}:///{Path(folder) / 'out'}", points))
    return [{"subject": name, "per_second": statistics.median(values)} for name, values in rates.items()]


async def _through(handlers: int, options: dict[str, Any], points: int) -> float:
    async def nothing(_records: Any) -> None:
        pass

    bus = EventBus(capacity=2**16)
    for number in range(handlers):
        bus.subscribe(nothing, name=f"h{number}", **options)
    return await _drained(bus, points)


async def _into(url: str, points: int) -> float:
    return await _drained(EventBus(url, capacity=2**16), points)


async def _drained(bus: EventBus, points: int) -> float:
    for number in range(points):
        bus.put_metric("loss", number)
    began = time.perf_counter()
    async with bus:
        result = await bus.flush(300)
        spent = time.perf_counter() - began
    lost = [lane.lost for lane in bus.stats().lanes.values()]
    assert result, result
    assert not any(lost), lost
    return points / spent


def report(rows: list[Row]) -> str:
    """Return the table."""
    return table("Drain", rows, {"points a second": lambda row: f"{row['per_second']:,.0f}"})


if __name__ == "__main__":
    print_table(report(run("--quick" in sys.argv)))
