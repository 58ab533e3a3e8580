"""What does one emit cost the caller? A metric and an event of five keys, against the floor and against others.

`python -m benchmarks.emit`. Each "hung" row emits with eight handlers that never return. `--threads` tells what a record
costs while eight threads emit, against the floor called by eight.
"""

import json
import logging
import logging.handlers
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio

from benchmarks.measure import Call, Cost, Row, floor, in_turn, print_table, table
from benchmarks.peers import METADATA, PEERS
from elastic_events import Event, EventBus, EventSource
from elastic_events.api import NodeState
from elastic_events.recording import construct_and_record_rdzv_event

EVENT = Event("torchelastic.worker.status.START", EventSource.AGENT, 0, METADATA)


def run(quick: bool = False) -> list[Row]:
    """Measure each subject in processes of its own, with the floor beside it, in turn.

    Rows have `subject`, and the medians of the rounds: `median_ns`, `p99_ns`, `p999_ns`, `ratio` to the floor; or `absent`.
    """
    rounds, calls = (1, 300) if quick else (3, 5_000)
    found: dict[str, list[Cost]] = {}
    absent = []
    for number in range(rounds):
        for name in SUBJECTS:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.emit", "--subject", name, str(calls)],
                capture_output=True,
                text=True,
                check=True,
            )
            measured = json.loads(done.stdout.splitlines()[-1])
            if not measured and not number:
                absent.append(name)
            for label, cost in measured.items():
                found.setdefault(label, []).append(Cost(*cost))
    costs = {label: Cost(*map(statistics.median, zip(*rows, strict=True))) for label, rows in found.items()}
    ordered = sorted(costs.items(), key=lambda row: (row[0] != "floor", row[0].partition(":")[0], row[1].ratio))
    rows = [
        {"subject": label, "median_ns": cost.median, "p99_ns": cost.p99, "p999_ns": cost.p999, "ratio": cost.ratio}
        for label, cost in ordered
    ]
    return rows + [{"subject": name, "absent": "not installed"} for name in absent]


def one(name: str, calls: int) -> dict[str, Cost]:
    """Measure one subject in this process."""
    with ExitStack() as stack:
        try:
            calls_of = SUBJECTS[name](stack)
        except ImportError:
            return {}
        return in_turn({"floor": floor(), **calls_of}, rounds=5, calls=calls) if calls_of else {}


def our_calls(label: str, **options: Any) -> Callable[[ExitStack], dict[str, Call]]:
    """Return what makes a bus of ours and names its calls."""

    def make(stack: ExitStack) -> dict[str, Call]:
        bus = stack.enter_context(ours(**options))
        put, record = bus.put_metric, bus.record
        return {
            f"metric: {label}": lambda: put("loss", 0.5),
            f"event: {label}": lambda: record(EVENT),
            f"rendezvous: {label}": lambda: construct_and_record_rdzv_event("r", "m", NodeState.RUNNING),
        }

    return make


def logging_calls(stack: ExitStack) -> dict[str, Call]:
    """Name the calls of the standard library's queue."""
    logger = stack.enter_context(queued_logging())
    return {
        "metric: logging, QueueHandler": lambda: logger.info("loss=%s", 0.5),
        "event: logging, QueueHandler": lambda: logger.info("%s", METADATA),
    }


def torch_calls(_stack: ExitStack) -> dict[str, Call]:
    """Name torch's own functions, where torch is installed: they discard, but for the rendezvous events."""
    try:
        import torch.distributed.elastic.events as events
        from torch.distributed.elastic.metrics import put_metric
    except ImportError:
        return {}
    event = events.Event(EVENT.name, events.EventSource.AGENT, 0, METADATA)
    events.handlers._log_handlers["dynamic_rendezvous"] = logging.FileHandler(os.devnull)
    state = events.NodeState.RUNNING
    return {
        "metric: torch, to Null": lambda: put_metric("loss", 0.5),
        'event: torch, to "null"': lambda: events.record(event),
        "rendezvous: torch, to a null device": lambda: events.construct_and_record_rdzv_event("r", "m", state),
    }


def threaded(threads: int = 8, each: int = 2_000) -> dict[str, Cost]:
    """Measure emits of many threads at once in this process: only `median`, per record, and `ratio` mean something."""

    def among(call: Call) -> Call:
        def work() -> None:
            for _ in range(each):
                call()

        def emit() -> None:
            running = [threading.Thread(target=work) for _ in range(threads)]
            for thread in running:
                thread.start()
            for thread in running:
                thread.join()

        return emit

    subjects: dict[str, Call] = {"floor": floor()}
    with ExitStack() as stack:
        subjects.update(our_calls("ours")(stack))
        subjects.update(our_calls("ours, flight recorder", recorder=True)(stack))
        costs = in_turn({name: among(call) for name, call in subjects.items()}, rounds=5, calls=1)
    return {name: cost._replace(median=cost.median / threads / each) for name, cost in costs.items()}


@contextmanager
def ours(hung: int = 0, recorder: bool = False) -> Iterator[EventBus]:
    """A bus that drains in a background thread."""

    async def hang(_records: Any) -> None:
        await anyio.sleep_forever()

    async def nothing(_records: Any) -> None:
        pass

    with tempfile.TemporaryDirectory() as folder:
        bus = EventBus(recorder=Path(folder) / "r" if recorder else None, timeout=0.1)
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


def report(rows: list[Row]) -> str:
    """Return the table."""
    columns = {
        "× floor": lambda row: f"{row['ratio']:.2f}",
        "median ns": lambda row: f"{row['median_ns']:.0f}",
        "p99 ns": lambda row: f"{row['p99_ns']:.0f}",
        "p99.9 ns": lambda row: f"{row['p999_ns']:.0f}",
    }
    return table("Cost of one emit", rows, columns)


SUBJECTS: dict[str, Callable[[ExitStack], dict[str, Call]]] = {
    "ours": our_calls("ours"),
    "hung": our_calls("ours, eight handlers hung", hung=8),
    "recorder": our_calls("ours, flight recorder", recorder=True),
    "logging": logging_calls,
    "torch elastic": torch_calls,
    **PEERS,
}


if __name__ == "__main__":
    if "--subject" in sys.argv:
        print(json.dumps(one(sys.argv[2], int(sys.argv[3]))))
    elif "--threads" in sys.argv:
        costs = threaded()
        columns = {"× floor": lambda cost: f"{cost.ratio:.2f}", "ns a record": lambda cost: f"{cost.median:.0f}"}
        print_table(table("Cost of one emit, eight threads", costs, columns))
    else:
        print_table(report(run("--quick" in sys.argv)))
