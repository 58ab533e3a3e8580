"""What runs under faults: a program that would print three lines and end with status 3, and records beside that.

    python -m tests.faults.program SUBJECT FOLDER LEDGER [URL]

Its own output and status are the same whatever becomes of its records; what it knows of these is in the file LEDGER.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio

import elastic_events
from elastic_events import Event, EventBus, EventSource
from elastic_events.bus.errors import ElasticEventsError, PermanentError, TransientError
from elastic_events.bus.record import Record
from elastic_events.bus.retry import Retry
from elastic_events.sinks.jsonl import JsonlSink

__all__ = ("EMITTED", "SUBJECTS", "TIMEOUT")

#: Records of each kind that a part of the program makes, parts, and what it makes in all.
EACH, PARTS = 12, 3
EMITTED = 2 * EACH * PARTS

#: Seconds that a bus may take to close.
TIMEOUT = 4.0

#: What became of it, for the file.
told: dict[str, Any] = {"raised": [], "refused": "", "lanes": {}, "pending": 0, "closed": None, "seconds": 0.0}


def emit(bus: EventBus, part: int) -> None:
    """Record one part: of the events each third is too long for a slot of a recorder."""
    for number in range(part * EACH, (part + 1) * EACH):
        try:
            bus.record(Event("e", EventSource.WORKER, metadata={"n": number, "text": "x" * (700 if number % 3 else 9)}))
            bus.put_metric("m", number)
        except BaseException as error:  # noqa: BLE001 - this is what is asked
            told["raised"].append(repr(error))


def note(bus: EventBus, closed: object, began: float) -> None:
    """Write down what the bus says of itself."""
    stats = bus.stats()
    told["lanes"] = {name: lane._asdict() for name, lane in stats.lanes.items()}
    told["accepted"], told["errors"], told["pending"] = stats.accepted, stats.errors, stats.pending
    told["closed"] = getattr(closed, "undelivered", None)
    told["seconds"] = time.monotonic() - began


def in_thread(bus: EventBus) -> None:
    """Record on a bus that is open, with a flush after each part, and close it."""
    for part in range(PARTS):
        emit(bus, part)
        bus.flush_sync(1.0)
    began = time.monotonic()
    note(bus, bus.close(), began)


async def in_loop(bus: EventBus) -> None:
    """The same in an event loop."""
    async with bus:
        for part in range(PARTS):
            emit(bus, part)
            await bus.flush(1.0)
        began = time.monotonic()
    note(bus, None, began)


class Moody(JsonlSink):
    """Away for the first part of what is recorded; refuses each event whose number divides by five."""

    batch_size = 8

    def __init__(self, path: Path, *, away: bool = False, refuses: bool = False) -> None:
        super().__init__(path)
        self.is_away, self._refuses = away, refuses

    async def write(self, records: Sequence[Record]) -> None:
        """Deliver, or not."""
        if self.is_away:
            raise TransientError("away")
        if self._refuses and any(one.kind == "event" and one.fields[2]["n"] % 5 == 0 for one in records):
            raise PermanentError("no fives")
        await super().write(records)


def spool(folder: Path, _url: str) -> None:
    """A sink that is away at first, and a spool that has to hold what it misses."""
    sink = Moody(folder / "run.jsonl", away=True)
    bus = EventBus(timeout=TIMEOUT)
    bus.subscribe(sink, spool=folder / "spool", backlog=8, retry=Retry(base=0.01, cap=0.05, budget=60), name="jsonl")
    with bus:
        emit(bus, 0)
        bus.flush_sync(0.3)
        sink.is_away = False
        emit(bus, 1)
        bus.flush_sync(1.0)
        emit(bus, 2)
        began = time.monotonic()
        note(bus, bus.close(), began)


def dead_letters(folder: Path, _url: str) -> None:
    """A sink that refuses some records, which go to a file."""
    bus = EventBus(timeout=TIMEOUT)
    retry = Retry(base=0.01, cap=0.05, budget=60)
    dead = f"jsonl:///{folder}/dead.jsonl"
    bus.subscribe(Moody(folder / "run.jsonl", refuses=True), dead_letters=dead, retry=retry, name="jsonl")
    with bus:
        in_thread(bus)


#: What is tried, by name.
SUBJECTS: dict[str, Callable[[Path, str], None]] = {
    "process-sqlite": lambda folder, _: in_thread(elastic_events.start(f"sqlite:///{folder}/run.db", timeout=TIMEOUT)),
    "process-jsonl": lambda folder, _: in_thread(
        elastic_events.start(f"jsonl:///{folder}/run.jsonl?rotate=8000", timeout=TIMEOUT)
    ),
    "thread-sqlite": lambda folder, _: in_thread(
        elastic_events.start(f"sqlite:///{folder}/run.db?max_age=9d&max_size=1GB", drain="thread", timeout=TIMEOUT)
    ),
    "thread-jsonl": lambda folder, _: in_thread(
        elastic_events.start(f"jsonl:///{folder}/run.jsonl?rotate=8000", drain="thread", timeout=TIMEOUT)
    ),
    "loop-sqlite": lambda folder, _: anyio.run(in_loop, EventBus(f"sqlite:///{folder}/run.db", timeout=TIMEOUT)),
    "recorder": lambda folder, _: anyio.run(
        in_loop, EventBus(f"jsonl:///{folder}/run.jsonl", recorder=folder / "recorder", timeout=TIMEOUT)
    ),
    "spool": spool,
    "dead-letters": dead_letters,
    "nats": lambda _, url: anyio.run(in_loop, EventBus(url, timeout=TIMEOUT)),
    "otlp": lambda _, url: anyio.run(in_loop, EventBus(url, timeout=TIMEOUT)),
}


def main(subject: str, folder: str, ledger: str, url: str = "") -> None:
    """Be the program."""
    if "FAULTS_PYTHON" in os.environ:  # the collector is to have the faults: started by this name, it has
        sys.executable = os.environ["FAULTS_PYTHON"]
    print("begins", flush=True)
    try:
        SUBJECTS[subject](Path(folder), url)
    except ElasticEventsError as error:
        told["refused"] = str(error)
    print("works", flush=True)
    Path(ledger).write_text(json.dumps(told), "utf-8")
    print("ends", flush=True)
    sys.exit(3)


if __name__ == "__main__":
    main(*sys.argv[1:])
