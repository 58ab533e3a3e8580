"""What does the emitter see when the sink is stuck? `python -m benchmarks.stalled`, each subject in a process of its own.

The sink never returns. A thread emits points for some seconds at most: did it get through, did memory grow, how many
points are still held, how many are lost, and does the library tell so? The others' sinks are stuck in the same way: a
handler, exporter or writer that waits forever, a queue that nobody takes from, a pipe that nobody reads.
"""

import asyncio
import json
import logging
import logging.handlers
import os
import queue
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import anyio

from benchmarks.measure import Row, load, print_table, table

__all__ = ("SUBJECTS", "report", "run")


class Stuck(NamedTuple):
    """A library whose sink is stuck."""

    emit: Callable[[int], object]
    held: Callable[[], int | None]  #: points that it still holds, None where nothing tells
    told: Callable[[], str]  #: how it tells of what it lost, "" if it does not


def run(quick: bool = False) -> list[Row]:
    """Measure each subject; rows have `subject`, `emitted`, `seconds`, `grown_mib`, `held`, `lost`, `told` or `absent`."""
    points, patience = (20_000, 3.0) if quick else (50_000, 10.0)
    return [_fresh(name, points, patience) for name in SUBJECTS]


def _fresh(name: str, points: int, patience: float) -> Row:
    command = [sys.executable, "-m", "benchmarks.stalled", "--subject", name, str(points), str(patience)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=patience + 60)
    try:
        row: Row = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise RuntimeError(f"{name} did not finish: {done.stderr[-500:]}") from None
    if not row.get("told") and done.stderr.strip():
        row["told"] = f"{len(done.stderr.splitlines()):,} lines on stderr"
    return {"subject": name, "points": points, **row}


def one(name: str, points: int, patience: float) -> Row:
    """Emit in a thread until all is emitted or `patience` seconds are over."""
    try:
        stuck = SUBJECTS[name]()
    except ImportError as error:
        return {"absent": str(error)}
    done, refused = 0, ""

    def emit() -> None:
        nonlocal done, refused
        for number in range(points):
            try:
                stuck.emit(number)
            except Exception as error:  # noqa: BLE001 - a refusal is an answer, whatever its type
                refused = f"raises {type(error).__name__}"
                continue
            done += 1

    before, began = _resident(), time.monotonic()
    thread = threading.Thread(target=emit, daemon=True)
    thread.start()
    thread.join(patience)
    spent, blocked, emitted = time.monotonic() - began, thread.is_alive(), done
    time.sleep(0.3)  # the drain's last look
    held = stuck.held()
    return {
        "emitted": emitted,
        "blocked": blocked,
        "seconds": spent,
        "grown_mib": _resident() - before,
        "held": held,
        # What blocked is not lost: it waits in the caller.
        "lost": None if held is None else max((emitted if blocked else points) - held, 0),
        "told": refused or stuck.told(),
    }


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def _forever(*_: object, **__: object) -> None:
    threading.Event().wait()


def ours(recorder: bool = False) -> Stuck:
    """Hang in the handler, with no time limit."""
    from elastic_events import EventBus

    async def hang(_records: Any) -> None:
        await anyio.sleep_forever()

    bus = EventBus(recorder=Path(tempfile.mkdtemp()) / "r" if recorder else None, timeout=0.1)
    bus.subscribe(hang, name="stuck", timeout=None, batch_size=100)
    bus.open()

    def told() -> str:
        lost = bus.stats().lanes["stuck"].dropped
        return "counted: " + ", ".join(f"{count:,} {reason}" for reason, count in lost.items()) if lost else ""

    return Stuck(lambda number: bus.put_metric("loss", number), lambda: bus.stats().lanes["stuck"].pending, told)


def queue_handler(module: str = "logging", bounded: bool = False) -> Stuck:
    """Put into a queue whose listener hangs in its handler."""
    library, handlers = load(module), load(f"{module}.handlers")
    waiting: Any = queue.Queue(2048) if bounded else queue.SimpleQueue()
    listener = logging.handlers.QueueListener(waiting)
    listener.handle = _forever  # type: ignore[method-assign]
    listener.start()
    logger = library.Logger("bench", library.INFO)
    logger.addHandler(handlers.QueueHandler(waiting))
    # The listener has one more in its hands.
    return Stuck(lambda number: logger.info("loss=%s", number), lambda: waiting.qsize() + 1, lambda: "")


def loguru() -> Stuck:
    """Hang in the writer thread behind `enqueue=True`."""
    log = load("loguru").logger
    log.remove()
    log.add(_forever, enqueue=True)
    return Stuck(lambda number: log.info(f"loss={number}"), lambda: None, lambda: "")


def structlog() -> Stuck:
    """Write into a pipe that nobody reads."""
    write = os.fdopen(os.pipe()[1], "w", buffering=1)
    log = load("structlog").WriteLogger(write)
    return Stuck(lambda number: log.info(f"loss={number}"), lambda: None, lambda: "")


def opentelemetry() -> Stuck:
    """Hang in the exporter of the batch processor, with its default queue of 2048."""
    logs = load("opentelemetry.sdk._logs")
    processor = load("opentelemetry.sdk._logs.export").BatchLogRecordProcessor
    exporter = load("opentelemetry.sdk._logs.export").InMemoryLogRecordExporter()
    exporter.export = _forever
    provider = logs.LoggerProvider()
    batch = processor(exporter)
    provider.add_log_record_processor(batch)
    logger = provider.get_logger("bench")
    return Stuck(
        lambda number: logger.emit(body="loss", attributes={"value": number}), lambda: _length(batch), lambda: ""
    )


def _length(batch: Any) -> int:
    # 512 are with the exporter: the default batch.
    return len(batch._batch_processor._queue) + 512


def bounded_queue(module: str) -> Stuck:
    """Put without waiting into a queue of 2048 that nobody takes from."""
    target = load(module).Queue(2048).sync_q
    return Stuck(lambda number: target.put_nowait(("loss", number)), target.qsize, lambda: "")


def caller(module: str) -> Stuck:
    """Hang in the receiver, which these call in the emitter."""
    if module == "pyee":
        emitter = load("pyee").EventEmitter()
        emitter.on("loss", _forever)
        return Stuck(lambda number: emitter.emit("loss", number), lambda: 0, lambda: "")
    if module == "blinker":
        signal = load("blinker").Signal()
        signal.connect(_forever, weak=False)
        return Stuck(lambda number: signal.send("loss", value=number), lambda: 0, lambda: "")
    metrics = load("torch.distributed.elastic.metrics")
    handler = type("Hung", (load("torch.distributed.elastic.metrics.api").MetricHandler,), {"emit": _forever})
    metrics.configure(handler())
    return Stuck(lambda number: metrics.put_metric("loss", number), lambda: 0, lambda: "")


def bubus() -> Stuck:
    """Hang in an async handler; the loop runs in a thread, and emits are handed to it."""
    library = load("bubus")
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    async def hang(_event: Any) -> None:
        await asyncio.Event().wait()

    bus = library.EventBus()
    bus.on("loss", hang)

    async def emit(number: int) -> None:
        bus.dispatch(library.BaseEvent(event_type="loss", value=number, event_timeout=None))

    return Stuck(
        lambda number: asyncio.run_coroutine_threadsafe(emit(number), loop).result(),
        lambda: bus.event_queue.qsize() + 1,
        lambda: "",
    )


def sentry() -> Stuck:
    """Hang in the worker's first task; its queue has the default size."""
    worker = load("sentry_sdk.worker").BackgroundWorker()
    refused = 0

    def emit(_number: int) -> None:
        nonlocal refused
        refused += not worker.submit(_forever)

    return Stuck(emit, lambda: worker._queue.qsize() + 1, lambda: "returns False" if refused else "")


def datadog() -> Stuck:
    """Send to a UDP socket of this machine that nobody reads."""
    import socket

    sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.bind(("127.0.0.1", 0))
    client = load("datadog.dogstatsd").DogStatsd(host="127.0.0.1", port=sink.getsockname()[1])
    client.bench_sink = sink
    return Stuck(lambda number: client.increment("loss", number), lambda: None, lambda: "")


def tensorboard() -> Stuck:
    """Hang where the writer's own thread writes to the file."""
    writer = load("tensorboardX").SummaryWriter(tempfile.mkdtemp())
    writer.file_writer.event_writer._ev_writer.write_event = _forever
    return Stuck(lambda number: writer.add_scalar("loss", number, number), lambda: None, lambda: "")


SUBJECTS: dict[str, Callable[[], Stuck]] = {
    "ours": ours,
    "ours, flight recorder": lambda: ours(recorder=True),
    "logging, QueueHandler": queue_handler,
    "logging, QueueHandler, queue of 2048": lambda: queue_handler(bounded=True),
    "picologging, QueueHandler": lambda: queue_handler("picologging"),
    "loguru, enqueue": loguru,
    "structlog, to a pipe": structlog,
    "OpenTelemetry, BatchLogRecordProcessor": opentelemetry,
    "sentry, worker": sentry,
    "bubus": bubus,
    "janus, put_nowait": lambda: bounded_queue("janus"),
    "culsans, put_nowait": lambda: bounded_queue("culsans"),
    "datadog, dogstatsd": datadog,
    "tensorboardX": tensorboard,
    "pyee": lambda: caller("pyee"),
    "blinker": lambda: caller("blinker"),
    "torch elastic metrics": lambda: caller("torch"),
}


def report(rows: list[Row]) -> str:
    """Return the table."""

    def number(row: Row, key: str) -> str:
        return "unknown" if row[key] is None else f"{row[key]:,}"

    columns = {
        "emitter": lambda row: f"blocked after {row['emitted']:,}" if row["blocked"] else f"{row['seconds']:.2f} s",
        "memory grew, MiB": lambda row: f"{row['grown_mib']:.1f}",
        "held": lambda row: number(row, "held"),
        "lost": lambda row: number(row, "lost"),
        "loss told": lambda row: row["told"] or ("nothing lost" if row["lost"] == 0 else "no"),
    }
    return table(f"{rows[0]['points']:,} points while the sink is stuck", rows, columns)


if __name__ == "__main__":
    if "--subject" in sys.argv:
        print(json.dumps(one(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))), flush=True)
        os._exit(0)  # what is stuck would hold the interpreter
    print_table(report(run("--quick" in sys.argv)))
