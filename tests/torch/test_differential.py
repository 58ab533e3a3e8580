"""Anything that torch takes, given to both: what comes out at a handler is the same, but for what the README's table lists."""

import json
import logging
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elastic_events import EventBus
from elastic_events.testing import capture
from tests.torch.worlds import OURS, THEIRS, outcome

# Without words and shapes of secrets, which are redacted, and short enough that nothing is cut: both are in the table.
words = st.text(st.sampled_from('abcxyz 123é🙂\u2028\ud800\x00"\\'), max_size=12)
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats() | st.booleans() | st.none()
values = st.recursive(
    numbers | words,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(words | st.integers(-5, 5) | st.none() | st.floats(-1, 1), inner, max_size=4)
    ),
    max_leaves=12,
)
metadata = st.dictionaries(words, values, max_size=6) | st.none()


class Keep(logging.Handler):
    """Keeps the texts of its LogRecords."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.texts.append(record.getMessage())


@pytest.fixture
def kept() -> Iterator[tuple[Keep, Keep, EventBus]]:
    """A handler of the destination "mine" in both worlds, and our bus, open."""
    theirs, ours = Keep(), Keep()
    THEIRS.handlers._log_handlers["mine"] = theirs
    OURS.handlers._log_handlers["mine"] = ours
    with EventBus(interval=0.001) as bus:
        yield theirs, ours, bus
    for world in (THEIRS, OURS):
        del world.handlers._log_handlers["mine"]
        logger = world.events._events_loggers.pop("mine", None)
        if logger is not None:
            logger.handlers.clear()


def shown(text: str) -> Any:
    """Return what a text of JSON says, with NaN as something that equals itself, and a surrogate as its escape."""

    def tame(value: Any) -> Any:
        if isinstance(value, float) and math.isnan(value):
            return "NaN"
        if isinstance(value, str):
            return value.encode(errors="backslashreplace").decode()
        if isinstance(value, list):
            return [tame(one) for one in value]
        return {tame(key): tame(one) for key, one in value.items()} if isinstance(value, dict) else value

    return tame(json.loads(text))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=words, data=metadata, time=st.integers(1, 2**60))
def test_events_reach_a_handler_alike(kept: tuple[Keep, Keep, EventBus], name: str, data: Any, time: int) -> None:
    """The JSON of an event that a logging handler gets says the same in both."""
    theirs, ours, bus = kept
    for world in (THEIRS, OURS):
        world.events.record(world.events.Event(name, world.events.EventSource.AGENT, time, data), "mine")
    assert bus.flush_sync(30)
    assert shown(ours.texts[-1]) == shown(theirs.texts[-1])
    assert len(ours.texts) == len(theirs.texts)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(words, min_size=4, max_size=6), numbers=st.lists(st.integers(0, 2**40) | st.none(), min_size=3))
def test_rendezvous_events_reach_a_handler_alike(
    kept: tuple[Keep, Keep, EventBus], texts: list[str], numbers: list[Any]
) -> None:
    """So does that of a rendezvous event, given to `record`."""
    theirs, ours, bus = kept
    for world in (THEIRS, OURS):
        state = world.events.NodeState.FAILED
        event = world.events.RdzvEvent(*texts[:4], numbers[0], state, "end", *numbers[1:3], error_trace=texts[-1])
        world.events.record(event, "mine")
    assert bus.flush_sync(30)
    assert shown(ours.texts[-1]) == shown(theirs.texts[-1])


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["Event", "RdzvEvent"]), metadata, st.data())
def test_texts_are_read_alike(kind: str, fields: Any, data: st.DataObject) -> None:
    """`deserialize` of any text gives the same event, or raises the same."""
    given = dict(
        fields or {},
        **data.draw(
            st.dictionaries(
                st.sampled_from(
                    [
                        "name",
                        "source",
                        "timestamp",
                        "metadata",
                        "run_id",
                        "message",
                        "hostname",
                        "pid",
                        "node_state",
                        "rank",
                    ]
                ),
                words | st.sampled_from(["AGENT", "INIT"]) | numbers,
                max_size=10,
            )
        ),
    )
    text = json.dumps(given)
    cut = data.draw(st.integers(0, len(text)))
    text = text if data.draw(st.booleans()) else text[:cut]
    found = [outcome(lambda w: repr(getattr(w.events, kind).deserialize(text)), world) for world in (OURS, THEIRS)]
    assert found[0] == found[1]


@settings(max_examples=200, deadline=None)
@given(name=words, value=numbers | words, group=words)
def test_metrics_reach_a_handler_alike(name: str, value: Any, group: str) -> None:
    """Name, value and group of a metric point are what was put, in both."""
    points: list[Any] = []

    class Keeps(THEIRS.metrics.MetricHandler):  # type: ignore[misc, name-defined]
        def emit(self, data: Any) -> None:
            points.append(tuple(data)[1:])

    before = dict(THEIRS.metrics_api._metrics_map)
    try:
        THEIRS.metrics.configure(Keeps(), group)
        THEIRS.metrics.put_metric(name, value, group)
    finally:
        THEIRS.metrics_api._metrics_map.clear()
        THEIRS.metrics_api._metrics_map.update(before)
    with capture() as seen:
        OURS.metrics.put_metric(name, value, group)
        point = tuple(seen[0].metric)[1:]

    def tame(one: Any) -> Any:
        return one.encode(errors="backslashreplace").decode() if isinstance(one, str) else repr(one)

    assert [*map(tame, point)] == [*map(tame, points[0])]


@settings(max_examples=200, deadline=None)
@given(qualname=words, module=words | st.none(), later=words)
def test_names_of_metrics_are_alike(qualname: str, module: str | None, later: str) -> None:
    """A function has the same metric name in both, whatever it is called, and when."""
    names = []
    for world in (THEIRS, OURS):

        def function() -> None:
            """Do nothing."""

        function.__qualname__, function.__module__ = qualname, module  # type: ignore[assignment]
        before = world.metrics_api._get_metric_name(function)
        function.__qualname__ = later
        names.append((before, world.metrics_api._get_metric_name(function)))
    assert names[0] == names[1]


def test_stream_that_is_held() -> None:
    """A handler that somebody gives a stream gets its points at once, as with torch."""

    class Keeps:
        def __init__(self) -> None:
            self.points: list[Any] = []

        def emit(self, data: Any) -> None:
            self.points.append(tuple(data)[1:])

    for world in (OURS, THEIRS):
        stream, mine = world.metrics.getStream("g"), Keeps()
        stream.handler = mine
        stream.add_value("a", 1)
        assert mine.points == [("g", "a", 1)]


def test_coroutines_of_types_are_measured() -> None:
    """A generator that `types.coroutine` made awaitable stays so when it is decorated."""
    import asyncio
    import types

    for world in (OURS, THEIRS):

        @world.metrics.prof
        @types.coroutine
        def wait() -> Any:
            yield from asyncio.sleep(0).__await__()
            return 3

        async def main(wait: Any = wait) -> int:
            found: int = await wait()
            return found

        assert asyncio.run(main()) == 3
