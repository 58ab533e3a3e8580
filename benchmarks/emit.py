"""What does one emit cost the caller? A metric and an event of five keys, against the floor and against others.

`python -m benchmarks.emit`. Each "hung" row emits with eight handlers that never return.
"""

import logging
import logging.handlers
import queue
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio

from benchmarks.measure import Call, Cost, floor, in_turn, table
from elastic_events import Event, EventBus, EventSource
from elastic_events.api import NodeState

METADATA = {"run_id": "run-12345", "global_rank": 3, "elapsed": 1.5, "raw_error": None, "role": "default"}
EVENT = Event("torchelastic.worker.status.START", EventSource.AGENT, 0, METADATA)


def run(rounds: int = 7, calls: int = 20_000) -> dict[str, Cost]:
    """Measure everything that is installed."""
    with ExitStack() as stack:
        subjects: dict[str, Call] = {"floor": floor()}
        for label, options in {
            "ours": {},
            "ours, handlers hung": {"hung": 8},
            "ours, recorder": {"recorder": True},
        }.items():
            bus = stack.enter_context(ours(**options))
            subjects[f"metric: {label}"] = lambda put=bus.put_metric: put("loss", 0.5)
            subjects[f"event: {label}"] = lambda record=bus.record: record(EVENT)
        logger = stack.enter_context(queued_logging())
        subjects["metric: logging, QueueHandler"] = lambda: logger.info("loss=%s", 0.5)
        subjects["event: logging, QueueHandler"] = lambda: logger.info("%s", METADATA)
        subjects |= torchs()
        return in_turn(subjects, rounds, calls)


@contextmanager
def ours(hung: int = 0, recorder: bool = False) -> Iterator[EventBus]:
    """A bus that drains in a background thread."""

    async def hang(_records: Any) -> None:
        await anyio.sleep_forever()

    async def nothing(_records: Any) -> None:
        pass

    with tempfile.TemporaryDirectory() as folder:
        bus = EventBus(recorder=Path(folder) / "r" if recorder else None, deadline=0.1)
        for number in range(hung):
            bus.subscribe(hang, name=f"hung{number}", timeout=None, batch_size=100)
        if not hung:
            bus.subscribe(nothing, batch_size=500)
        with bus:
            yield bus


@contextmanager
def queued_logging() -> Iterator[logging.Logger]:
    """The standard library's way not to block: a queue, and a listener thread with a handler that does nothing."""
    records: queue.SimpleQueue[Any] = queue.SimpleQueue()
    listener = logging.handlers.QueueListener(records, logging.NullHandler())
    logger = logging.Logger("bench", logging.INFO)
    logger.addHandler(logging.handlers.QueueHandler(records))
    listener.start()
    try:
        yield logger
    finally:
        listener.stop()


def torchs() -> dict[str, Call]:
    """torch's own functions, where torch is installed: they discard."""
    try:
        import torch.distributed.elastic.events as events
        from torch.distributed.elastic.metrics import put_metric
    except ImportError:
        return {}
    event = events.Event(EVENT.name, events.EventSource.AGENT, 0, METADATA)
    return {
        "metric: torch, to Null": lambda: put_metric("loss", 0.5),
        'event: torch, to "null"': lambda: events.record(event),
        "rendezvous: torch, gated": lambda: events.construct_and_record_rdzv_event("r", "m", events.NodeState.RUNNING),
        "rendezvous: ours, gated": lambda: our_rdzv("r", "m", NodeState.RUNNING),
    }


def our_rdzv(*args: Any) -> None:
    """Call ours with no bus to go to."""
    from elastic_events.recording import construct_and_record_rdzv_event

    construct_and_record_rdzv_event(*args)


def report(costs: dict[str, Cost]) -> str:
    """Return the table."""
    columns = {
        "× floor": lambda cost: f"{cost.ratio:.2f}",
        "median ns": lambda cost: f"{cost.median:.0f}",
        "p99 ns": lambda cost: f"{cost.p99:.0f}",
        "p99.9 ns": lambda cost: f"{cost.p999:.0f}",
    }
    return table("Cost of one emit", costs, columns)


if __name__ == "__main__":
    quick = "--quick" in sys.argv
    print(report(run(3 if quick else 9, 5_000 if quick else 20_000)))
