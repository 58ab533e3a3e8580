"""What waits is bounded in bytes of memory, whatever it holds."""

import gc
import tracemalloc
from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest

from elastic_events import Event, EventSource
from elastic_events.bus.backlog import Backlog
from elastic_events.bus.context import read_context
from elastic_events.bus.emit import Emitter
from elastic_events.bus.latest import Latest
from elastic_events.bus.pump import to_records
from elastic_events.bus.record import Record
from elastic_events.bus.redact import Redactor
from elastic_events.bus.ring import Ring
from elastic_events.bus.weight import weigh

COUNT = 128


def event(**metadata: Any) -> Event:
    """Return an event."""
    return Event("e", EventSource.WORKER, 0, metadata)


def recorded(emit: Callable[[Emitter, int], object]) -> list[Record]:
    """Return `COUNT` records as the pump makes them."""
    events, metrics = Ring(COUNT), Ring(COUNT)
    emitter = Emitter(events.pipe, metrics.pipe, Redactor())
    for number in range(COUNT):
        emit(emitter, number)
    ring = events if events.head else metrics
    return to_records([frame for frame in ring.frames(0, COUNT) if frame], read_context(), 0)


EMIT: dict[str, Callable[[Emitter, int], object]] = {
    "numbers": lambda to, number: to.put_metric("loss", number / 2),
    "a text of wide characters": lambda to, _: to.put_metric("loss", "\U0001f600" + "x" * 3000),
    "a metric of empty dicts": lambda to, _: to.put_metric("loss", {"a": [{} for _ in range(100)]}),
    "a step": lambda to, number: to.record(event(step=number, loss=number / 2, role="default", host=f"node-{number}")),
    "nothing": lambda to, _: to.record(event()),
    "a traceback": lambda to, _: to.record(event(trace="word " * 600)),
    "small numbers": lambda to, _: to.record(event(few=[number / 2 for number in range(900)])),
    "many keys": lambda to, _: to.record(event(**{f"{number:x}": 1 for number in range(250)})),
    "empty dicts": lambda to, _: to.record(event(few=[{} for _ in range(120)])),
    "lists in lists": lambda to, _: to.record(event(few=[[[]], [[[]]], {"a": [{}]}] * 8)),
}


@pytest.mark.parametrize("emit", EMIT.values(), ids=EMIT)
@pytest.mark.parametrize("latest", [False, True])
def test_a_backlog_takes_no_more_memory_than_it_says(emit: Callable[[Emitter, int], object], latest: bool) -> None:
    """What a backlog counts is what its records take: of empty dicts fifty times their encoded bytes."""
    frames = recorded(emit)  # the names that the decoder keeps are known by now
    backlog: Any = Latest(10**6, 10**12, id) if latest else Backlog(10**6, 10**12, "drop_oldest")
    del frames
    gc.collect()
    tracemalloc.start()
    try:
        records = recorded(emit)
        backlog.push(records)
        assert all(record.event or record.metric for record in records)
        del records
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken * 0.9 < backlog.size < 3 * taken
    assert len(backlog.take(COUNT // 2, 10**12)) == COUNT // 2
    assert 0 < backlog.size < 3 * taken / 2
    backlog.clear()
    assert backlog.size == 0


def test_what_is_dropped_and_given_back_is_weighed_the_same() -> None:
    """The sum is that of what waits, after every push, loss, take and return, of points with numbers and with dicts."""
    records = recorded(lambda to, number: to.put_metric("m", number if number % 3 else {"a": {}}))
    backlog = Backlog(100, 10**9, "drop_oldest")
    backlog.push(records)
    assert backlog.losses() == {"backlog": COUNT - 100}
    backlog.untake(backlog.take(33, 10**9))
    for most in (1, 50, 48):
        backlog.take(most, 10**9)
    last = Backlog(100, 10**9, "drop_oldest")
    last.push(records[-1:])
    assert backlog.size == last.size > 0


def test_an_event_weighs_the_same_whatever_waits_beside_it() -> None:
    """Short and long texts, lists and empty ones, in batches of one kind and mixed: each takes out of a sum what it put in."""
    metadata: tuple[dict[str, Any], ...] = ({"a": 1}, {"a": "x" * 600}, {"a": [1, {}]}, {}, {"a": 1, "b": "c"})
    makes = [lambda to, _, about=about: to.record(event(**about)) for about in metadata]
    records = list(chain.from_iterable(zip(*map(recorded, makes), strict=True)))
    assert {record.flat for record in records} == {True, False}
    alone = {id(record): weigh([record]) for record in records}
    for size in (2, 3, 7, len(records)):
        for begin in range(0, len(records), size):
            batch = records[begin : begin + size]
            assert weigh(batch) == sum(alone[id(record)] for record in batch)


METRICS = (1, -1.5, True, 2**64 - 1, -(2**63), float("inf"), None, "a text", [1], {"a": 1})
METADATA: tuple[dict[str, Any], ...] = (
    {},
    {"a": 1, "b": None, "c": True, "d": 0.5, "e": "t" * 500},
    {"a": [1]},
    {"a": {"b": 2**63}},
)


@pytest.mark.parametrize("emit", ["put_metric", "record"])
def test_a_record_is_the_same_whatever_stands_beside_it(emit: str) -> None:
    """Records of texts and numbers are read by a way of their own: values and types are those of the general one."""
    events, metrics = Ring(16), Ring(16)
    emitter = Emitter(events.pipe, metrics.pipe, Redactor())
    for value in METRICS if emit == "put_metric" else METADATA:
        emitter.put_metric("m", value) if emit == "put_metric" else emitter.record(event(**value))
    ring = events if events.head else metrics
    frames = [frame for frame in ring.frames(0, ring.head) if frame]
    context = read_context()
    together = to_records(frames, context, 7)
    alone = [record for frame in frames for record in to_records([frame], context, 7)]
    shown = [repr((one.kind, one.seq, one.time_ns, one.name, one.channel, one.fields, one.size)) for one in together]
    assert shown == [repr((o.kind, o.seq, o.time_ns, o.name, o.channel, o.fields, o.size)) for o in alone]
    values = [one.fields[-1] for one in alone]
    assert repr(values) == repr(list(METRICS if emit == "put_metric" else METADATA))
    assert any(one.flat for one in alone), "what is flat is known as it is read"
    assert not any(one.flat for one in together)
