"""Calls that a type checker must refuse: where one is accepted, its `type: ignore` is unused, and mypy says so."""

import elastic_events
import elastic_events.sinks
from elastic_events import Event, EventBus, EventSource, Lane, Record, Retry
from elastic_events.testing import capture
from elastic_metrics import MetricHandler, configure, prof, put_metric

print(elastic_events.no_such_name)  # type: ignore[attr-defined]
print(elastic_events.sinks.NoSuchSink)  # type: ignore[attr-defined]
elastic_events.start("sqlite:///run.db", drain="somewhere")  # type: ignore[arg-type]
elastic_events.stop("soon")  # type: ignore[arg-type]
elastic_events.step()  # type: ignore[call-arg]

Event("started", "EVERYWHERE")  # type: ignore[arg-type]
Event(1, EventSource.WORKER)  # type: ignore[arg-type]
Event("started", EventSource.WORKER, metadata={"rank": [1]})  # type: ignore[dict-item]
Event("started")  # type: ignore[call-arg]
Retry(attempt=1)  # type: ignore[call-arg]

bus = EventBus(capacity="large")  # type: ignore[arg-type]
EventBus(deadline=5)  # type: ignore[call-arg]
bus.subscribe("console:", overflow="drop_all")  # type: ignore[arg-type]
bus.subscribe("console:", on_failure="ignore")  # type: ignore[arg-type]
bus.subscribe("console:", batchsize=3)  # type: ignore[call-arg]
print(bus.stats().lanes["console"].lots)  # type: ignore[attr-defined]
lane: Lane = bus.stats()  # type: ignore[assignment]

put_metric(3, 4)  # type: ignore[arg-type]
configure(print)  # type: ignore[arg-type]


class Silent(MetricHandler):
    """A handler without `emit`."""


Silent()  # type: ignore[abstract]


class Loud(MetricHandler):
    """A handler whose `emit` takes something else."""

    def emit(self, metric_data: str) -> None:  # type: ignore[override]
        """Take a text."""


@prof
def plain(x: int) -> str:
    """Return text."""
    return str(x)


plain("3")  # type: ignore[arg-type]
number: int = plain(3)  # type: ignore[assignment]

with capture() as seen:
    last: Record = seen.events  # type: ignore[assignment]


async def later() -> None:
    """Forget to wait."""
    result: bool = bus.flush()  # type: ignore[assignment]
    print(result)
