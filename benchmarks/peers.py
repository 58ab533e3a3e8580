"""Other ways to get a metric or an event out of a loop, each in its recommended configuration with a sink that discards.

A peer that is not installed is left out of the measurement and named in the table. Queues without a sink (janus, culsans)
are bounded at 2048 and drop the oldest, as the floor does.
"""

import logging
import logging.handlers
import os
import queue
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.measure import Call, load

__all__ = ("PEERS",)

METADATA: dict[str, Any] = {
    "run_id": "run-12345",
    "global_rank": 3,
    "elapsed": 1.5,
    "raw_error": None,
    "role": "default",
}


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


def opentelemetry_logs(stack: ExitStack) -> dict[str, Call]:
    """Emit through the batch processor, whose exporter takes all and keeps nothing."""
    export = load("opentelemetry.sdk._logs.export")
    exporter = export.InMemoryLogRecordExporter()
    exporter.export = lambda _batch: export.LogRecordExportResult.SUCCESS
    provider = load("opentelemetry.sdk._logs").LoggerProvider()
    provider.add_log_record_processor(export.BatchLogRecordProcessor(exporter))
    stack.callback(provider.shutdown)
    emit = provider.get_logger("bench").emit
    return both(
        "OpenTelemetry, logs in batches",
        lambda: emit(body="loss", attributes={"value": 0.5}),
        lambda: emit(event_name="event", attributes=METADATA),
    )


def sentry(stack: ExitStack) -> dict[str, Call]:
    """Capture an event offline; a transport of our own discards it in the SDK's background worker."""
    sdk, worker = load("sentry_sdk"), load("sentry_sdk.worker").BackgroundWorker()

    class Discarding(load("sentry_sdk.transport").Transport):  # type: ignore[misc]
        def capture_envelope(self, _envelope: Any) -> None:
            worker.submit(lambda: None)

    client = sdk.Client(dsn="https://key@localhost/1", transport=Discarding, default_integrations=False)
    stack.callback(worker.kill)
    return {"event: sentry-sdk, no-op transport": lambda: client.capture_event({"message": "event", "extra": METADATA})}


def torch_monitor(stack: ExitStack) -> dict[str, Call]:
    """Add to a statistic, which is aggregated, and log an event to a handler in the caller."""
    import datetime

    monitor = load("torch.monitor")
    stat = monitor.Stat("loss", [monitor.Aggregation.MEAN], datetime.timedelta(seconds=60))
    stack.callback(monitor.unregister_event_handler, monitor.register_event_handler(lambda _event: None))
    data = {name: value for name, value in METADATA.items() if value is not None}  # it takes no None
    now = datetime.datetime.now
    return both(
        "torch.monitor (calls the handler)",
        lambda: stat.add(0.5),
        lambda: monitor.log_event(monitor.Event("event", now(), data)),
    )


def bubus(stack: ExitStack) -> dict[str, Call]:
    """Dispatch to an async handler that does nothing, and let the loop run it: the bus refuses more than 100 pending."""
    import asyncio

    library = load("bubus")
    loop = asyncio.new_event_loop()
    stack.callback(loop.close)

    async def make() -> Any:
        async def nothing(_event: Any) -> None:
            pass

        bus = library.EventBus(max_history_size=50)
        bus.on("loss", nothing)
        bus.on("event", nothing)
        return bus

    bus = loop.run_until_complete(make())

    async def dispatch(name: str, **fields: Any) -> None:
        await bus.dispatch(library.BaseEvent(event_type=name, **fields))

    return both(
        "bubus (runs the handler)",
        lambda: loop.run_until_complete(dispatch("loss", value=0.5)),
        lambda: loop.run_until_complete(dispatch("event", metadata=METADATA)),
    )


PEERS: dict[str, Callable[[ExitStack], dict[str, Call]]] = {
    "loguru": loguru,
    "structlog": structlog,
    "picologging": picologging,
    "OpenTelemetry logs": opentelemetry_logs,
    "OpenTelemetry metrics": opentelemetry_metrics,
    "prometheus_client": prometheus,
    "datadog": datadog,
    "tensorboardX": tensorboard,
    "torch.monitor": torch_monitor,
    "sentry": sentry,
    "bubus": bubus,
    "blinker": blinker,
    "pyee": pyee,
    "culsans": culsans,
    "janus": janus,
}
