"""The public API as users call it: checked by mypy, never run."""

from collections.abc import Sequence

import elastic_events
from elastic_events import (
    BusStats,
    Event,
    EventBus,
    EventSource,
    FlushResult,
    Lane,
    LaneStats,
    NodeState,
    RdzvEvent,
    Record,
    Retry,
    Sink,
    construct_and_record_rdzv_event,
    get_logging_handler,
    record,
    record_rdzv_event,
)
from elastic_events.recorder.collecting import Collecting
from elastic_events.testing import Capture, FakeClock, capture
from elastic_metrics import (
    ConsoleMetricHandler,
    MetricData,
    MetricHandler,
    MetricStream,
    NullMetricHandler,
    configure,
    getStream,
    prof,
    put_metric,
)


class Keep:
    """A sink."""

    async def open(self) -> None: ...
    async def write(self, records: Sequence[Record]) -> None: ...
    async def aclose(self) -> None: ...


class Mine(MetricHandler):
    """A metric handler."""

    def emit(self, metric_data: MetricData) -> None:
        """Take one."""
        value: object = metric_data.value
        print(metric_data.timestamp, metric_data.name, value)


async def one(record: Record) -> None:
    """Take one record."""
    print(record.id, record.seq, record.event, record.context.rank)
    if isinstance(record.event, Event):
        print(record.event.metadata["rank"])
    if record.metric is not None:
        print(record.metric.value)


async def many(records: list[Record]) -> None:
    """Take a batch."""
    print(len(records))


async def launcher() -> None:
    """Use a bus in a loop."""
    sink: Sink = Keep()
    async with EventBus(sink, "sqlite:///run.db", one, capacity=4096, recorder="dir", strict=True) as bus:
        lane: Lane = bus.subscribe(
            many,
            name="many",
            events=["worker.*"],
            metrics=False,
            batch_size=100,
            linger=0.1,
            timeout=None,
            retry=Retry(budget=1),
        )
        lane.unsubscribe()
        await lane.aclose()
        async with bus.subscribe(
            one,
            where=lambda record: record.metadata.get("rank") == 3,
            concurrency=4,
            key=lambda record: record.context.rank,
            replay=100,
            on_failure="raise",
        ) as short:
            print(short.stats().balanced)
        bus.subscribe(one, coalesce=lambda record: (record.context.rank, record.name))
        async with bus.listen("worker.*", metrics=False, where=lambda record: record.kind == "event") as records:
            async for heard in records:
                event: Event | RdzvEvent | None = heard.event
                print(event, records.dropped)
        failed: Record = await bus.next("worker.failed", timeout=5)
        source: Collecting = await bus.collect("recorders", exit_code=lambda pid: -9, on_failure="raise")
        env: dict[str, str] = bus.worker_env(rank=0, local_rank=0, world_size=2, attempt=1)
        print(failed.metadata, source.directory, env)
        bus.bind(job_id=7).bind(attempt=1).record(Event("e", EventSource.AGENT))
        bus.record(Event("e", EventSource.AGENT, metadata={"a": 1, "b": None}))
        bus.put_metric("m", 1.0, "g")
        result: FlushResult = await bus.flush(1.0)
        if not result:
            print(result.undelivered)
        result.raise_if_undelivered()
        stats: BusStats = bus.stats()
        one_lane: LaneStats = stats.lanes["many"]
        dropped: dict[str, int] = one_lane.dropped
        print(dropped, stats.accepted)
        await bus.aclose(2.0)


def mistaken(record: Record) -> None:
    """Take one record, but not in an event loop."""


def mistakes() -> None:
    """Give what is no handler: each is an error here, and when it is run."""
    bus = EventBus(mistaken)  # type: ignore[arg-type]
    bus.subscribe(print)  # type: ignore[arg-type]
    bus.subscribe(lambda record: None)  # type: ignore[arg-type]
    bus.subscribe(3)  # type: ignore[arg-type]
    bus.subscribe(Mine)  # type: ignore[arg-type]


def worker() -> None:
    """Use the module functions."""
    bus: EventBus = elastic_events.start("jsonl:///run.jsonl", interval=0.1)
    record(Event("e", EventSource.WORKER), "console")
    record(Event(name="e", source=EventSource.WORKER, timestamp=1, metadata={}), destination="null")
    record_rdzv_event(RdzvEvent("n", "r", "m", "h", 1, NodeState.INIT))
    construct_and_record_rdzv_event("r", "m", NodeState.FAILED, rank=1)
    get_logging_handler("console").flush()
    configure(Mine())
    configure(ConsoleMetricHandler(), group="train")
    configure(NullMetricHandler(), "quiet")
    stream: MetricStream = getStream("train")
    stream.add_value("x", 1)
    put_metric("loss", 0.5)
    put_metric("loss", 0.5, metric_group="train")
    with elastic_events.step(3, epoch=1), elastic_events.checkpoint(3), elastic_events.restore():
        pass
    bus.flush_sync(1.0)
    elastic_events.stop(2.0)


@prof
def plain(x: int) -> str:
    """Return text."""
    return str(x)


@prof(group="train")
async def later(x: int) -> str:
    """Return text later."""
    return str(x)


text: str = plain(3)

with capture(buses="all") as everything, capture() as seen:
    print(len(everything))
    caught: Capture = seen
    clock = FakeClock()
    first: Record = seen[0]
