"""Records for the tests of sinks."""

from typing import Any

from elastic_events.bus.context import Context
from elastic_events.bus.record import Record, record_of

__all__ = ("CONTEXT", "event", "ledger", "metric", "metrics", "rdzv")

CONTEXT = Context(
    "run", "1-2-three", "host", 7, rank=3, local_rank=1, world_size=8, node_rank=0, role="trainer", restart=2
)
NOW = 1_795_000_000_000_000_000


def metric(seq: int, value: Any = 0.5, name: str = "loss", **more: Any) -> Record:
    """Make a metric point."""
    return record_of(**{**_head("metric", seq, name, "train", (value,)), **more})


def event(seq: int, metadata: Any = None, name: str = "worker.failed", **more: Any) -> Record:
    """Make an event."""
    return record_of(
        **{**_head("event", seq, name, "null", ("WORKER", 0, {} if metadata is None else metadata)), **more}
    )


def rdzv(seq: int, message: str = "joined", **more: Any) -> Record:
    """Make a rendezvous event."""
    fields = ("run", message, "host", 7, "RUNNING", "", None, 0, "")
    return record_of(**{**_head("rdzv", seq, "dynamic_rendezvous.py:join", "dynamic_rendezvous", fields), **more})


def ledger(seq: int, lane: str = "sqlite", **more: Any) -> Record:
    """Make a lane's ledger."""
    body = {"lane": lane, "accepted": 3, "delivered": 2, "dropped": {"overwritten": 1}}
    return record_of(**{**_head("ledger", seq, "bus.ledger", lane, (body,)), **more})


def metrics(count: int, start: int = 0, **more: Any) -> list[Record]:
    """Make many metric points."""
    return [metric(seq, seq / 2, **more) for seq in range(start, start + count)]


def _head(kind: str, seq: int, name: str, channel: str, fields: tuple[Any, ...]) -> dict[str, Any]:
    return {
        "kind": kind,
        "seq": seq,
        "time_ns": NOW + seq * 1000,
        "monotonic_ns": seq * 1000,
        "name": name,
        "channel": channel,
        "fields": fields,
        "context": CONTEXT,
        "size": 50,
    }
