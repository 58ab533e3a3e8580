"""Handlers of others as handlers of the bus: torch's destinations, `logging.Handler`s, torch-style metric handlers."""

import io
import json
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import elastic_events
from elastic_events import Event, EventBus, EventSource, NodeState, RdzvEvent, get_logging_handler, record, start
from elastic_events import handlers as handlers_module
from elastic_events.handlers import LoggingSink
from elastic_events.recording import record_rdzv_event
from elastic_events.testing import ListSink, capture
from elastic_metrics import put_metric

EVENT = Event("a", EventSource.WORKER, 5, {"k": 1})
MEETING = RdzvEvent("f.py:join", "run", "joined", "host", 7, NodeState.RUNNING)


class Keep(logging.Handler):
    """Keeps its LogRecords and the names of the threads it was called in; raises for the events named "bad"."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[logging.LogRecord] = []
        self.threads: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.threads.add(threading.current_thread().name)
        if record.funcName == "bad":
            raise OSError("disk full")
        self.entries.append(record)


class Polite(Keep):
    """Passes its errors to `handleError`, as the standard handlers do."""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one, or tell."""
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)


class Points:
    """A metric handler by shape alone; raises for the points named "bad"."""

    def __init__(self) -> None:
        self.points: list[Any] = []
        self.threads: set[str] = set()

    def emit(self, metric_data: Any) -> None:
        """Keep one."""
        self.threads.add(threading.current_thread().name)
        if metric_data.name == "bad":
            raise RuntimeError("sink")
        self.points.append(metric_data)


@pytest.fixture
def destinations(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, logging.Handler]]:
    """A copy of the destinations, to add to."""
    copy = dict(handlers_module._log_handlers)
    monkeypatch.setattr(handlers_module, "_log_handlers", copy)
    monkeypatch.setattr(handlers_module, "_events_loggers", {})
    yield copy
    elastic_events.stop()


def test_destinations_are_torchs() -> None:
    """The three destinations exist as torch has them; an unknown one is a KeyError."""
    assert isinstance(get_logging_handler(), logging.NullHandler)
    assert isinstance(get_logging_handler("dynamic_rendezvous"), logging.NullHandler)
    assert isinstance(get_logging_handler("console"), logging.StreamHandler)
    with pytest.raises(KeyError, match="nowhere"):
        get_logging_handler("nowhere")


def test_console_is_stderr_of_import() -> None:
    """The destination "console" writes one JSON line an event to the stderr of the process."""
    import subprocess

    program = (
        "from elastic_events import Event, EventSource, record\n"
        "record(Event('a', EventSource.WORKER, 5, {'k': 1}), 'console')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == ""
    assert done.stderr == EVENT.serialize() + "\n"


@pytest.mark.parametrize("destination", ["null", "console", "dynamic_rendezvous"])
def test_info_records(destination: str) -> None:
    """`get_logging_handler(d).info(event)`, which torch documents and cannot do, records for that destination."""
    with capture() as seen:
        get_logging_handler(destination).info(EVENT)  # type: ignore[attr-defined]
        assert seen.events == [EVENT]
        assert seen[0].destination == destination


def test_own_destination_gets_its_events(destinations: dict[str, logging.Handler]) -> None:
    """A handler put under a name gets the events recorded for that name, and no others."""
    mine = destinations["mine"] = Keep()
    with EventBus():
        record(EVENT, "mine")
        record(Event("other", EventSource.WORKER))
        record_rdzv_event(MEETING)
    assert [entry.msg for entry in mine.entries] == [EVENT.serialize()]


def test_rendezvous_events_go_to_their_destination(destinations: dict[str, logging.Handler]) -> None:
    """Rendezvous events go to "dynamic_rendezvous", as torch sends them."""
    mine = destinations["dynamic_rendezvous"] = Keep()
    with EventBus():
        record(EVENT)
        record_rdzv_event(MEETING)
    assert [entry.msg for entry in mine.entries] == [MEETING.serialize()]
    assert mine.entries[0].name == "torchelastic-events-dynamic_rendezvous"


def test_log_record_is_as_torchs() -> None:
    """A LogRecord has torch's logger's name, level and text, the time of the record, and the record itself."""
    keep = Keep()
    with EventBus(keep):
        record(EVENT, "null")
    entry = keep.entries[0]
    assert (entry.name, entry.levelno, entry.getMessage()) == (
        *("torchelastic-events-null", logging.INFO),
        EVENT.serialize(),
    )
    assert entry.created == entry.elastic_record.time_ns / 1e9  # type: ignore[attr-defined]
    assert 0 <= entry.msecs < 1000
    assert entry.elastic_record.event == EVENT  # type: ignore[attr-defined]


def test_logging_handler_runs_in_the_lanes_own_thread() -> None:
    """A logging handler gets events only, in a thread that its lane owns, whatever loop drains."""
    keep = Keep()
    with EventBus(keep):
        put_metric("m", 1)
        record(EVENT)
    assert [json.loads(entry.msg)["name"] for entry in keep.entries] == ["a"]
    assert keep.threads == {"elastic-events Keep"}


async def test_logging_handler_in_the_callers_loop() -> None:
    """The same holds where the caller's own loop drains."""
    keep = Keep()
    async with EventBus(keep) as bus:
        record(EVENT)
        await bus.settled()
        assert keep.threads == {"elastic-events Keep"}
    assert len(keep.entries) == 1


@pytest.mark.parametrize("kind", [Keep, Polite])
@pytest.mark.parametrize("batch_size", [None, 10])
def test_failure_of_a_logging_handler_is_counted(kind: type[Keep], batch_size: int | None, capfd: Any) -> None:
    """An error counts as failed, whether raised or passed to `handleError`; the other records are delivered once (F27)."""
    keep = kind()
    with EventBus() as bus:
        lane = bus.subscribe(keep, batch_size=batch_size)
        for name in ("good", "bad", "fine"):
            record(Event(name, EventSource.WORKER))
    stats = lane.stats()
    assert (stats.delivered, stats.failed) == (2, 1)
    assert "disk full" in stats.last_error
    assert [entry.funcName for entry in keep.entries] == ["good", "fine"]
    assert "handleError" not in vars(keep)
    said = [line.partition(":")[2] for line in capfd.readouterr().err.splitlines()]
    assert [line.partition(lane.name)[2][:7] for line in said] == ["' loses", "' lost "]


def test_two_lanes_share_a_handler() -> None:
    """Errors of one lane's calls stay its own where two lanes, in two threads, share a handler."""
    both_inside = threading.Barrier(2, timeout=0.2)

    class Shared(Polite):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                both_inside.wait()  # passes only if two threads are in here at once
            except threading.BrokenBarrierError:
                both_inside.reset()
            super().emit(record)

    shared = Shared()
    with EventBus() as bus:
        good = bus.subscribe(shared, name="good", events="good")
        bad = bus.subscribe(shared, name="bad", events="bad")
        record(Event("good", EventSource.WORKER))
        record(Event("bad", EventSource.WORKER))
    assert (good.stats().delivered, good.stats().failed) == (1, 0)
    assert (bad.stats().delivered, bad.stats().failed) == (0, 1)
    assert "handleError" not in vars(shared)


def test_handle_error_of_the_instance_comes_back() -> None:
    """A `handleError` that the program put on the handler is there again after a record."""
    keep = Keep()
    own = keep.handleError = lambda _record: None  # type: ignore[method-assign]
    with EventBus(keep):
        record(EVENT)
    assert keep.entries
    assert keep.handleError is own


def test_level_and_filters_of_the_handler_apply() -> None:
    """A handler's own level and filters hold, as behind a logger; `LOGLEVEL` and `logging.disable` do not (deviation)."""
    strict, choosy, plain = Keep(), Keep(), Keep()
    strict.setLevel(logging.WARNING)
    choosy.addFilter(lambda entry: entry.funcName != "a")
    logging.disable(logging.CRITICAL)
    try:
        with EventBus(strict, choosy, plain):
            record(EVENT)
            record(Event("b", EventSource.WORKER))
    finally:
        logging.disable(logging.NOTSET)
    assert strict.entries == []
    assert [entry.funcName for entry in choosy.entries] == ["b"]
    assert len(plain.entries) == 2


def test_standard_handler_formats() -> None:
    """A standard handler with a formatter of its own writes what it would behind a logger."""
    handler = logging.StreamHandler(out := io.StringIO())
    handler.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))
    with EventBus(handler):
        record(EVENT)
    assert out.getvalue() == f"torchelastic-events-null INFO {EVENT.serialize()}\n"


@pytest.mark.parametrize("batch_size", [None, 10])
def test_metric_handler_gets_points_only(batch_size: int | None) -> None:
    """Any object with `emit` gets each point as `MetricData`, in its lane's thread; one that raises is counted."""
    points = Points()
    with EventBus() as bus:
        lane = bus.subscribe(points, batch_size=batch_size)
        record(EVENT)
        for name in ("good", "bad", "fine"):
            put_metric(name, 0.5, "g")
    assert [(point.group_name, point.name, point.value) for point in points.points] == [
        ("g", "good", 0.5),
        ("g", "fine", 0.5),
    ]
    assert points.points[0].timestamp > 1_600_000_000
    assert points.threads == {"elastic-events Points"}
    assert lane.stats().failed == 1


def test_background_bus_writes_to_the_console(destinations: dict[str, logging.Handler]) -> None:
    """With no bus open, a destination whose handler writes gets its event all the same; "null" starts nothing."""
    mine = destinations["mine"] = Keep()
    record(EVENT)
    assert elastic_events.current_bus() is None
    record(EVENT, "mine")
    assert elastic_events.stop()
    assert len(mine.entries) == 1


def test_handler_class_is_no_handler() -> None:
    """A class given in place of its instance is refused with a sentence."""
    with pytest.raises(elastic_events.ConfigError, match="is no handler"):
        start(42)


def test_logger_of_a_destination(destinations: dict[str, logging.Handler]) -> None:
    """`_get_or_create_logger` gives one logger a destination, with its handler alone."""
    destinations["mine"] = Keep()
    logger = elastic_events._get_or_create_logger("mine")
    assert elastic_events._get_or_create_logger("mine") is logger
    assert logger.handlers == [destinations["mine"]]
    assert not logger.propagate
    assert handlers_module._events_loggers == {"mine": logger}
    logger.handlers.clear()


def test_adapted_handlers_are_sinks() -> None:
    """What adapters make of a handler satisfies the contract of a sink."""
    assert isinstance(LoggingSink(Keep()), elastic_events.Sink)


def test_handler_subscribed_at_the_close_is_opened_and_closed() -> None:
    """A handler that is subscribed right before the close is opened and closed, and does not hold it to its deadline."""
    sink = ListSink()
    with EventBus() as bus:
        bus.subscribe(sink)
    assert (sink.opened, sink.closed) == (1, 1)
