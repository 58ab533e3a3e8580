"""The torchrun streams in `tests/data`, as records: what torch emitted, with the times and processes of the capture."""

import json
from pathlib import Path
from typing import Any

from elastic_events.bus.context import Context
from elastic_events.bus.record import Record, record_of

__all__ = ("DATA", "STREAMS", "load", "same", "values")

DATA = Path(__file__).parent / "data"

#: Names of the captured runs.
STREAMS = tuple(sorted(path.stem for path in DATA.glob("run*.jsonl")))


def load(name: str) -> list[Record]:
    """Return the records of a captured run, in the order of the capture."""
    records = []
    seqs = {"e": 0, "m": 0}
    contexts: dict[int, Context] = {}
    for line in (DATA / f"{name}.jsonl").read_text().splitlines():
        entry = json.loads(line)
        pid = entry["pid"]
        context = contexts.setdefault(pid, Context(name, f"{pid:x}-0-captured", "localhost", pid))
        ring = "m" if entry["kind"] == "metric" else "e"
        records.append(_record(entry, seqs[ring], context))
        seqs[ring] += 1
    return records


def values(record: Record) -> tuple[Any, ...]:
    """Return everything a stored record must give back, types included."""
    return (
        *(record.id, record.kind, record.seq, record.time_ns, record.monotonic_ns, record.name, record.channel),
        *(repr(record.fields), record.context, record.recovered),
    )


def same(first: list[Record], second: list[Record]) -> bool:
    """Whether two lists hold the same records in the same order."""
    return list(map(values, first)) == list(map(values, second))


def _record(entry: dict[str, Any], seq: int, context: Context) -> Record:
    payload, wall = entry["payload"], entry["wall_ns"]
    if entry["kind"] == "metric":
        return record_of(
            "metric", seq, wall, wall, payload["name"], payload["group_name"], (payload["value"],), context, 64
        )
    name = payload.pop("name")
    channel = entry["logger"].removeprefix("torchelastic-events-")
    kind = "rdzv" if entry["kind"] == "rdzv" else "event"
    return record_of(kind, seq, wall, wall, name, channel, tuple(payload.values()), context, len(json.dumps(payload)))
