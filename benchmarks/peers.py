"""Other ways to get a metric or an event out of a loop, each in its recommended configuration with a sink that discards.

A peer that is not installed is left out of the measurement and named in the table. Queues without a sink (janus, culsans)
are bounded at 2048 and drop the oldest, as the floor does.
"""

import importlib
import logging
import logging.handlers
import os
import queue
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.measure import Call

__all__ = ("PEERS",)

METADATA: dict[str, Any] = {
    "run_id": "run-12345",
    "global_rank": 3,
    "elapsed": 1.5,
    "raw_error": None,
    "role": "default",
}


def load(name: str) -> Any:
    """Import a module that has no types, or may be missing."""
    return importlib.import_module(name)


def both(label: str, metric: Call, event: Call) -> dict[str, Call]:
    """Name the two calls of a peer."""
    return {f"metric: {label}": metric, f"event: {label}": event}


def loguru(stack: ExitStack) -> dict[str, Call]:
    """Queue each message to a writer thread: `enqueue=True`, as its documentation says for several processes."""
    log = load("loguru").logger
    log.remove()
    log.add(lambda _message: None, enqueue=True)
    stack.callback(log.remove)
    info, info_bound = log.info, log.bind(**METADATA).info
    return both("loguru, enqueue", lambda: info("loss={}", 0.5), lambda: info_bound("event"))


def structlog(stack: ExitStack) -> dict[str, Call]:
    """Write JSON to the null device, cached and filtered, as its performance page says."""
    structlog = load("structlog")
    file = Path(os.devnull).open("w")  # noqa: SIM115 - closed with the stack
    stack.callback(file.close)
    structlog.configure(
        cache_logger_on_first_use=True,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        processors=[structlog.processors.TimeStamper(fmt="iso", utc=True), structlog.processors.JSONRenderer()],
        logger_factory=structlog.WriteLoggerFactory(file),
    )
    log = structlog.get_logger()
    return both(
        "structlog, to a null device", lambda: log.info("loss", value=0.5), lambda: log.info("event", **METADATA)
    )


def picologging(stack: ExitStack) -> dict[str, Call]:
    """Use a logger in C with a queue handler and listener of its own."""
    pico, handlers = load("picologging"), load("picologging.handlers")
    records: queue.SimpleQueue[Any] = queue.SimpleQueue()
    listener = handlers.QueueListener(records, logging.NullHandler())
    logger = pico.Logger("bench", pico.INFO)
    logger.addHandler(handlers.QueueHandler(records))
    listener.start()
    stack.callback(listener.stop)
    return both("picologging, QueueHandler", lambda: logger.info("loss=%s", 0.5), lambda: logger.info("%s", METADATA))


def opentelemetry_metrics(_stack: ExitStack) -> dict[str, Call]:
    """Set a gauge, which keeps the last value only."""
    provider = load("opentelemetry.sdk.metrics").MeterProvider(
        [load("opentelemetry.sdk.metrics.export").InMemoryMetricReader()]
    )
    gauge = provider.get_meter("bench").create_gauge("loss")
    return {"metric: OpenTelemetry, gauge (keeps the last)": lambda: gauge.set(0.5)}


def prometheus(_stack: ExitStack) -> dict[str, Call]:
    """Set a gauge, which keeps the last value only."""
    client = load("prometheus_client")
    gauge = client.Gauge("loss", "loss", registry=client.CollectorRegistry())
    return {"metric: prometheus_client, gauge (keeps the last)": lambda: gauge.set(0.5)}


def datadog(stack: ExitStack) -> dict[str, Call]:
    """Send to a UDP socket of this machine that nobody reads, buffered and aggregated as by default."""
    import socket

    sink = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sink.bind(("127.0.0.1", 0))
    client = load("datadog.dogstatsd").DogStatsd(host="127.0.0.1", port=sink.getsockname()[1])
    stack.callback(client.stop)
    return {"metric: datadog, dogstatsd": lambda: client.gauge("loss", 0.5)}


def tensorboard(stack: ExitStack) -> dict[str, Call]:
    """Write scalars to an event file through the writer's own thread."""
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    writer = load("tensorboardX").SummaryWriter(folder)
    stack.callback(writer.close)
    return {"metric: tensorboardX": lambda: writer.add_scalar("loss", 0.5, 1)}


def blinker(_stack: ExitStack) -> dict[str, Call]:
    """Call one receiver, in the caller."""
    signal = load("blinker").Signal()
    signal.connect(lambda _sender, **_fields: None, weak=False)
    return both(
        "blinker (calls the receiver)",
        lambda: signal.send("loss", value=0.5),
        lambda: signal.send("event", **METADATA),
    )


def pyee(_stack: ExitStack) -> dict[str, Call]:
    """Call one listener, in the caller."""
    emitter = load("pyee").EventEmitter()
    emitter.on("loss", lambda _value: None)
    emitter.on("event", lambda _value: None)
    return both("pyee (calls the listener)", lambda: emitter.emit("loss", 0.5), lambda: emitter.emit("event", METADATA))


def culsans(_stack: ExitStack) -> dict[str, Call]:
    """Put without waiting, and take one out when full."""
    return _bounded("culsans", load("culsans").Queue(2048).sync_q)


def janus(_stack: ExitStack) -> dict[str, Call]:
    """Put without waiting, and take one out when full."""
    return _bounded("janus", load("janus").Queue(2048).sync_q)


def _bounded(label: str, target: Any) -> dict[str, Call]:
    def put(item: object) -> None:
        if target.full():
            target.get_nowait()
        target.put_nowait(item)

    return both(f"{label} (keeps references)", lambda: put(("loss", 0.5)), lambda: put(METADATA))


PEERS: dict[str, Callable[[ExitStack], dict[str, Call]]] = {
    "loguru": loguru,
    "structlog": structlog,
    "picologging": picologging,
    "OpenTelemetry": opentelemetry_metrics,
    "prometheus_client": prometheus,
    "datadog": datadog,
    "tensorboardX": tensorboard,
    "blinker": blinker,
    "pyee": pyee,
    "culsans": culsans,
    "janus": janus,
}
