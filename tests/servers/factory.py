"""Records as the pump would make them, for sinks that are driven without a bus."""

from typing import Any

from elastic_events import api  # noqa: F401 - it knows how to build an Event from a record
from elastic_events.bus.context import Context
from elastic_events.bus.record import Record, record_of

EPOCH = 1_790_000_000_000_000_000


def context(rank: int | None = 0, run_id: str = "run-1", process: str = "p1", **fields: Any) -> Context:
    """Return the context of one worker."""
    world_size = fields.pop("world_size", 8)
    return Context(run_id, process, "node-a", 4242, rank, rank, world_size, 0, "trainer", 1, **fields)


def metric(
    seq: int, name: str = "loss", value: Any = 0.5, group: str = "train", speaker: Context | None = None, **fields: Any
) -> Record:
    """Return a metric point; time runs a millisecond a sequence number."""
    time_ns = fields.pop("time_ns", EPOCH + seq * 1_000_000)
    return record_of("metric", seq, time_ns, seq * 1_000_000, name, group, (value,), speaker or context(), 60, **fields)


def event(
    seq: int, name: str = "step.started", metadata: dict[str, Any] | None = None, speaker: Context | None = None
) -> Record:
    """Return an event."""
    body = {"step": seq} if metadata is None else metadata
    return record_of(
        *("event", seq, EPOCH + seq * 1_000_000, seq * 1_000_000, name, "null", ("WORKER", 0, body)),
        speaker or context(),
        90,
    )


def rdzv(seq: int, message: str = "The node joined.", speaker: Context | None = None) -> Record:
    """Return a rendezvous event."""
    fields = ("run-1", message, "node-a", 4242, "RUNNING", "node-a:29500", 0, 1, "")
    return record_of(
        "rdzv", seq, EPOCH + seq, seq, "dynamic_rendezvous.py:join", "null", fields, speaker or context(), 90
    )


def ledger(seq: int, lane: str = "nats", **counts: Any) -> Record:
    """Return the ledger of a lane."""
    body = {"lane": lane, "dropped": {}, **counts}
    return record_of("ledger", seq, EPOCH + seq, seq, "bus.ledger", lane, (body,), context())
