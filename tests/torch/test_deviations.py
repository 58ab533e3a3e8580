"""The deviations from torch that docs/differences.md lists, each shown in both worlds: what torch does, and what we do."""

import dataclasses
import functools
import inspect
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy
import pytest

import elastic_events
from elastic_events import EventBus, MetadataError
from elastic_events.testing import capture
from tests.torch.worlds import OURS, THEIRS, event, outcome, points_of, rdzv


class Keep(logging.Handler):
    """Keeps the texts of its LogRecords; raises what it is given."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.error = error

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        if self.error is not None:
            raise self.error
        self.texts.append(record.getMessage())


@contextmanager
def destination(world: Any, handler: logging.Handler) -> Iterator[None]:
    """Let `handler` be the destination "mine", with a bus where the world has one."""
    world.handlers._log_handlers["mine"] = handler
    try:
        with EventBus() if world is OURS else nullcontext():
            yield
    finally:
        del world.handlers._log_handlers["mine"]
        logger = world.events._events_loggers.pop("mine", None)
        if logger is not None:
            logger.handlers.clear()


def timestamp(world: Any) -> Any:
    """Return whether an event without a time is delivered with one."""
    keep = Keep()
    with destination(world, keep):
        world.events.record(world.events.Event("n", world.events.EventSource.AGENT), "mine")
    return json.loads(keep.texts[0])["timestamp"] > 0


def raising_handler(world: Any) -> Any:
    """Record for a handler that raises."""
    with destination(world, Keep(OSError("disk full"))):
        result = outcome(lambda w: w.events.record(event(w), "mine"), world)
        bus = elastic_events.current_bus()
        if bus is None:
            return result
        bus.flush_sync()
        return result, bus.stats().lanes["log:mine"].failed


def unknown_destination(world: Any) -> Any:
    """Record for a destination that nobody has."""
    if world is THEIRS:
        return outcome(lambda w: w.events.record(event(w), "nowhere"), world)
    with capture() as seen:
        return outcome(lambda w: w.events.record(event(w), "nowhere"), world), len(seen)


def no_json(world: Any) -> Any:
    """Record metadata that JSON cannot hold."""
    lenient = outcome(lambda w: w.events.record(event(w, b=b"x")), world)
    if world is THEIRS:
        return lenient
    with capture() as seen:
        world.events.record(event(world, b=b"x"))
        kept = sorted(seen.events[0].metadata)
    with capture(strict=True), pytest.raises(MetadataError):
        world.events.record(event(world, b=b"x"))
    return lenient, kept


def log_level(world: Any) -> Any:
    """Return how many events arrive with LOGLEVEL=WARNING."""
    keep = Keep()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOGLEVEL", "WARNING")
        with destination(world, keep):
            world.events.record(event(world), "mine")
    return len(keep.texts)


def prof_async(world: Any) -> Any:
    """Return how much is published before a coroutine and a generator run, and after they are closed early."""
    counts: list[int] = []

    def body(w: Any) -> None:
        @w.metrics.prof
        async def work() -> None:
            """Do nothing."""

        @w.metrics.prof
        def numbers() -> Iterator[int]:
            yield 1

        made, source = work(), numbers()
        counts.append(len(seen))
        made.close()
        next(source)
        source.close()

    seen: list[Any] = []
    before = world.metrics_api.MetricStream.add_value
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            world.metrics_api.MetricStream,
            "add_value",
            lambda self, name, value: (seen.append(name), before(self, name, value)),
        )
        points = points_of(world, body)
    return counts[0], [name.rpartition(">.")[2] for _, name, _ in points if counts[0] == 0]


def prof_clock(world: Any) -> Any:
    """Return whether a duration is negative where the wall clock runs backwards."""
    now = iter(range(1_000_000, 0, -100))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: float(next(now)))
        points = points_of(world, lambda w: w.metrics.prof(nothing)(), durations=True)
    return points[-1][2] < 0


def nothing() -> None:
    """Return None."""


def rendezvous(world: Any) -> Any:
    """Return how often making a rendezvous event walks the stack through the sources, and asks for the host's name."""
    calls: list[str] = []

    def count(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: (calls.append(name), function(*args))[1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.events, "get_logging_handler", lambda _destination="null": logging.StreamHandler())
        patch.setattr(world.events, "record_rdzv_event", lambda _event: None)
        patch.setattr(inspect, "stack", count("stack", inspect.stack))
        patch.setattr(socket, "getfqdn", count("getfqdn", lambda *_: "host"))
        world.events.construct_and_record_rdzv_event("run", "message", world.events.NodeState.INIT)
    return sorted(calls)


def raising_metric_handler(world: Any) -> Any:
    """Call a decorated function whose metric handler raises."""

    class Raises(world.metrics.MetricHandler):  # type: ignore[misc]
        def emit(self, data: Any) -> None:
            raise RuntimeError("sink")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.metrics_api, "getStream", lambda group: world.metrics_api.MetricStream(group, Raises()))
        return outcome(lambda w: w.metrics.prof(lambda: 3)(), world)


def info(world: Any) -> Any:
    """Record as torch's documentation shows."""
    with capture() as seen:
        result = outcome(lambda w: w.events.get_logging_handler("console").info(event(w)), world)
        return result, len(seen)


def metric_thread(world: Any) -> Any:
    """Return whether a metric handler runs in the thread that puts."""
    threads: list[int] = []

    class Thread(world.metrics.MetricHandler):  # type: ignore[misc]
        def emit(self, data: Any) -> None:
            threads.append(threading.get_ident())

    try:
        world.metrics.configure(Thread(), "mine")
        world.metrics.put_metric("a", 1, "mine")
        elastic_events.stop()
    finally:
        world.metrics_api._metrics_map.pop("mine")
    assert len(threads) == 1
    return threads[0] == threading.get_ident()


def deserialize(world: Any) -> Any:
    """Deserialize what is no text, in both kinds of event."""
    kinds = (world.events.Event, world.events.RdzvEvent)
    return {outcome(lambda _, k=kind, d=data: k.deserialize(d), world) for kind in kinds for data in ({}, b"{}", None)}


def prof_partial(world: Any) -> Any:
    """Call a decorated partial function."""
    return outcome(lambda w: w.metrics.prof(functools.partial(int, "12"))(), world)


def no_event(world: Any) -> Any:
    """Record None and a text."""
    with capture() as seen:
        results = {outcome(lambda w, wrong=wrong: w.events.record(wrong), world) for wrong in (None, "text")}
        return results, [record.name for record in seen]


def added_fields(world: Any) -> Any:
    """Return where the field that a subclass adds is in the JSON that a handler gets."""

    @dataclasses.dataclass
    class Mine(world.events.Event):  # type: ignore[misc, name-defined]
        rank: int = 3

    keep = Keep()
    with destination(world, keep):
        world.events.record(Mine("n", world.events.EventSource.AGENT, 5), "mine")
    said = json.loads(keep.texts[0])
    return said.get("rank"), said["metadata"].get("rank")


def rdzv_fields(world: Any) -> Any:
    """Return whether a field that a subclass of a rendezvous event adds is kept."""

    @dataclasses.dataclass
    class Mine(world.events.RdzvEvent):  # type: ignore[misc, name-defined]
        rank_of_mine: int = 3

    keep = Keep()
    fields = dataclasses.asdict(rdzv(world)) | {"node_state": world.events.NodeState.INIT}
    with destination(world, keep):
        world.events.record(Mine(**fields), "mine")
    return "rank_of_mine" in json.loads(keep.texts[0])


def number_kinds(world: Any) -> Any:
    """Return the types of the values that a metric handler gets for numbers of other kinds."""
    import torch

    given = (numpy.float32(0.5), numpy.array([2]), Decimal("0.5"), Fraction(1, 2), 10**30, torch.tensor(3))
    if world is OURS:
        with capture() as seen:
            for value in given:
                world.metrics.put_metric("m", value)
            return [type(point.value).__name__ for point in seen.metrics]
    return [
        type(value).__name__
        for _, _, value in points_of(world, lambda w: [w.metrics.put_metric("m", value) for value in given])
    ]


def no_number(world: Any) -> Any:
    """Return what a metric handler gets for an object."""
    value = Keep()
    if world is OURS:
        with capture() as seen:
            world.metrics.put_metric("m", value)
            return isinstance(seen.metrics[0].value, str)
    return isinstance(points_of(world, lambda w: w.metrics.put_metric("m", value))[0][2], str)


def secret(world: Any) -> Any:
    """Return whether a password is in the JSON that a handler gets."""
    keep = Keep()
    with destination(world, keep):
        world.events.record(event(world, password="hunter2"), "mine")
    return "hunter2" in keep.texts[0]


def long_event(world: Any) -> Any:
    """Return whether the JSON of an event of 100 KB is that long."""
    keep = Keep()
    with destination(world, keep):
        world.events.record(event(world, text="x" * 100_000), "mine")
    return len(keep.texts[0]) > 100_000


def held_stream(world: Any) -> Any:
    """Return who gets the point of a stream that was got before another handler was configured."""
    seen: list[str] = []

    class Named(world.metrics.MetricHandler):  # type: ignore[misc, name-defined]
        def __init__(self, name: str) -> None:
            self.name = name

        def emit(self, data: Any) -> None:
            seen.append(self.name)

    try:
        world.metrics.configure(Named("first"), "held")
        stream = world.metrics.getStream("held")
        world.metrics.configure(Named("second"), "held")
        stream.add_value("a", 1)
        elastic_events.stop()
    finally:
        world.metrics_api._metrics_map.pop("held")
    return seen


def at_once(world: Any) -> Any:
    """Return whether a handler has an event when `record` returns."""
    keep = Keep()
    with destination(world, keep), capture() if world is OURS else nullcontext():
        world.events.record(event(world), "mine")
        return len(keep.texts)


NOTHING = ("returns", None)

#: What the table of docs/differences.md says -> the call, what torch makes of it, what we do.
DEVIATIONS: dict[str, tuple[Callable[[Any], Any], Any, Any]] = {
    "an event's timestamp of 0": (timestamp, False, True),
    "a handler that raises": (raising_handler, ("raises", "OSError"), (NOTHING, 1)),
    "an unknown destination": (unknown_destination, ("raises", "KeyError"), (NOTHING, 1)),
    "metadata that JSON cannot hold": (no_json, ("raises", "TypeError"), (NOTHING, ["b"])),
    "`LOGLEVEL=WARNING`": (log_level, 0, 1),
    "`@prof` on coroutines and generators": (prof_async, (4, []), (0, ["numbers.duration.ms"])),
    "`prof`'s clock": (prof_clock, True, False),
    "`construct_and_record_rdzv_event`": (rendezvous, ["getfqdn", "stack"], []),
    "a `MetricHandler` that raises": (raising_metric_handler, ("raises", "RuntimeError"), ("returns", 3)),
    '`get_logging_handler("console").info(event)`': (info, (("raises", "AttributeError"), 0), (NOTHING, 1)),
    "metric handlers": (metric_thread, True, False),
    "`deserialize` of a dict, bytes or None": (
        *(deserialize, {("raises", "UnboundLocalError")}),
        {("raises", "TypeError")},
    ),
    "`@prof` on a `functools.partial`": (prof_partial, ("raises", "AttributeError"), ("returns", 12)),
    "a field that a subclass of `Event` adds": (added_fields, (3, None), (None, 3)),
    "a field that a subclass of `RdzvEvent` adds": (rdzv_fields, True, False),
    "a metric's number of another kind": (
        number_kinds,
        ["float32", "ndarray", "Decimal", "Fraction", "int", "Tensor"],
        ["float", "int", "float", "float", "float", "int"],
    ),
    "a metric's value that is no number": (no_number, False, True),
    "a stream held over `configure`": (held_stream, ["first"], ["second"]),
    "when a handler has a record": (at_once, 1, 0),
    "a secret in metadata": (secret, True, False),
    "an event of more than 16 KiB": (long_event, True, False),
    "`record()` of what is no event": (
        *(no_event, ({("raises", "AttributeError")}, [])),
        ({NOTHING}, ["unrecordable", "unrecordable"]),
    ),
}


@pytest.mark.parametrize("name", DEVIATIONS)
def test_deviation_is_as_listed(name: str) -> None:
    """Torch does what docs/differences.md says it does, and we do the other."""
    call, theirs, ours = DEVIATIONS[name]
    assert call(THEIRS) == theirs
    assert call(OURS) == ours


def test_page_lists_the_deviations() -> None:
    """The table of deviations in docs/differences.md and the table proved here have the same rows, in the same order."""
    page = (Path(__file__).parents[2] / "docs/differences.md").read_text(encoding="utf-8")
    table = page.partition("| | torch | here |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| (\S.*?) \|", table, re.MULTILINE) == list(DEVIATIONS)


def test_unknown_destination_is_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    """An unknown destination is named on stderr, once, however often it comes."""
    with EventBus():
        for _ in range(3):
            elastic_events.record(event(OURS), "nowhere")
    assert capfd.readouterr().err.count("nowhere") == 1


def test_rendezvous_events_are_recorded_with_no_destination() -> None:
    """With a bus open, rendezvous events are recorded though "dynamic_rendezvous" has torch's NullHandler."""
    with capture() as seen:
        elastic_events.construct_and_record_rdzv_event("run", "message", elastic_events.NodeState.INIT)
        elastic_events.record_rdzv_event(rdzv(OURS))
        assert [made.message for made in seen.events] == ["message", "m"]
