"""The encoder is total: whatever a caller records, some frame comes out, and nothing of the caller's is run."""

import dataclasses
import datetime
import decimal
import enum
import math
import pathlib
import time
import uuid
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elastic_events import Event, EventSource, MetadataError, NodeState, RdzvEvent
from elastic_events.bus.codec import LIMIT
from elastic_events.testing import capture


def recorded(metadata: Any) -> Any:
    """Return the metadata that arrives."""
    with capture() as seen:
        from elastic_events import record

        record(Event("e", EventSource.WORKER, metadata=metadata))
        assert len(seen) == 1
        assert seen[0].name == "e"
        return seen[0].event.metadata


class Hostile:
    """Raises wherever it is touched."""

    def __str__(self) -> str:
        raise RuntimeError("touched")

    __repr__ = __str__

    def __bool__(self) -> bool:
        raise RuntimeError("touched")

    def __iter__(self) -> Any:
        raise RuntimeError("touched")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("touched")

    __hash__ = None  # type: ignore[assignment]


class HostileDict(dict[str, Any]):
    """A dict whose own methods must not be run."""

    def items(self) -> Any:
        raise RuntimeError("touched")

    keys = values = __iter__ = items  # type: ignore[assignment]


class HostileStr(str):
    """A str whose own methods must not be run."""

    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("touched")

    encode = __str__  # type: ignore[assignment]


class Colour(enum.Enum):
    """An enum whose values are plain."""

    RED = "red"


@dataclasses.dataclass
class Point:
    """A dataclass in metadata."""

    x: int
    y: Any


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (True, True),
        (2**63, 2**63),
        (2**80, str(2**80)),
        (10**5001, hex(10**5001)),
        (math.inf, math.inf),
        (b"bytes\xff", "bytes\\xff"),
        ({1, 2}, [1, 2]),
        ((1, (2, 3)), [1, [2, 3]]),
        ("lone \ud800", "lone \\ud800"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC), "2026-01-02T03:04:00+00:00"),
        (decimal.Decimal("1.5"), 1.5),
        (uuid.UUID(int=5), str(uuid.UUID(int=5))),
        (pathlib.PurePosixPath("/a/b"), "/a/b"),
        (Colour.RED, "red"),
        (EventSource.AGENT, "AGENT"),
        (Point(1, b"y"), {"x": 1, "y": "y"}),
        (ValueError("bad", 3), "ValueError: bad, 3"),
        (numpy.float32(0.5), 0.5),
        (numpy.float64(0.25), 0.25),
        (numpy.int64(-7), -7),
        (numpy.bool_(True), True),
        (numpy.uint64(2**64 - 1), 2**64 - 1),
        (numpy.zeros((2, 3)), "<array float64 [2, 3]>"),
        (object(), "<builtins.object>"),
        (HostileStr("text"), "text"),
        (HostileDict(a=1), {"a": 1}),
        (SimpleNamespace(a=1), "<types.SimpleNamespace>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_kind_of_value_arrives(value: Any, arrives: Any) -> None:
    """Every kind of value arrives as its plain form (F57, F58, F59)."""
    assert recorded({"v": value}) == {"v": arrives}


def test_hostile_object_is_named_not_run() -> None:
    """An object whose every method raises is replaced by the name of its class (F59)."""
    assert recorded({"v": Hostile(), "w": 1}) == {"v": f"<{__name__}.Hostile>", "w": 1}


def test_sleeping_str_is_not_called() -> None:
    """No `__str__` of the caller's runs: it could sleep (F59)."""

    class Sleepy:
        called = False

        def __str__(self) -> str:
            Sleepy.called = True
            time.sleep(3600)
            return ""

    recorded({"v": Sleepy()})
    assert not Sleepy.called


def test_nan_arrives_as_nan() -> None:
    """NaN stays a float on the bus; making strict JSON of it is each sink's work (F56)."""
    assert math.isnan(recorded({"v": math.nan})["v"])


def test_cycles_and_depth_end() -> None:
    """A cycle and a thousand levels are cut, not followed (F58)."""
    assert "too deep" in repr(recorded({"v": CYCLE}))
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    assert "too deep" in repr(recorded({"v": deep, "b": b""}))


def test_keys_that_differ_only_in_type_are_both_kept() -> None:
    """`1` and `"1"` are two keys, and stay two (F60)."""
    assert recorded({1: "int", "1": "str", b"1": "bytes", (1, 2): "tuple"}) == {
        1: "int",
        "1": "str",
        "1'": "bytes",
        "[1, 2]": "tuple",
    }


def test_metadata_none_and_foreign_metadata() -> None:
    """Metadata that is no dict arrives as what it is."""
    assert recorded(None) is None
    assert recorded([1, 2]) == [1, 2]


def test_snapshot() -> None:
    """A change after `record()` does not show (F54, M10)."""
    metadata: dict[str, Any] = {"list": [1], "n": 1}
    with capture() as seen:
        from elastic_events import record

        record(Event("e", EventSource.WORKER, metadata=metadata))
        metadata["n"] = 2
        metadata["list"].append(2)
        assert seen[0].event.metadata == {"list": [1], "n": 1}


@pytest.mark.parametrize(
    "value", ["x" * 11_000_000, list(range(100_000)), {str(i): i for i in range(50_000)}, ["y" * 99] * 9999]
)
def test_oversized_record_is_truncated_with_a_marker(value: Any) -> None:
    """An 11 MB value is cut to the limit, and the record says how long it was (F42)."""
    with capture() as seen:
        from elastic_events import record

        record(Event("big", EventSource.WORKER, metadata={"small": 1, "v": value}))
        assert seen[0].size <= LIMIT
        assert seen[0].name == "big"
        assert "truncated" in repr(seen[0].event.metadata)


def test_oversized_names_and_rendezvous_messages_are_truncated() -> None:
    """Every field can be the long one."""
    from elastic_events import record, record_rdzv_event
    from elastic_metrics import put_metric

    with capture() as seen:
        put_metric("n" * 100_000, 1.0)
        record(Event("n" * 100_000, EventSource.WORKER, metadata={}))
        record_rdzv_event(RdzvEvent("n", "r", "m" * 100_000, "h", 1, NodeState.INIT, error_trace="t" * 100_000))
        assert [record.kind for record in seen] == ["metric", "event", "rdzv"]
        assert all(record.size <= LIMIT for record in seen)


json_like = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text("abc é\u2028🙂\x00"),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abc é\u2028🙂\x00", max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from("abcdefgh"), json_like, max_size=5))
def test_json_values_arrive_equal(metadata: dict[str, Any]) -> None:
    """Metadata that JSON holds arrives as it was."""
    with capture(redact=None) as seen:
        from elastic_events import record

        record(Event("e", EventSource.WORKER, metadata=metadata))
        assert seen[0].event.metadata == metadata


anything = st.recursive(
    st.none()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.complex_numbers()
    | st.datetimes()
    | st.decimals(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text() | st.integers() | st.binary(), inner, max_size=3)
        | st.tuples(inner)
    ),
    max_leaves=10,
)


@settings(max_examples=200)
@given(anything)
def test_anything_leaves_one_record(value: Any) -> None:
    """Whatever the value, the emitter sees no exception and one record arrives (F58)."""
    from elastic_events import record
    from elastic_metrics import put_metric

    with capture() as seen:
        record(Event("e", EventSource.WORKER, metadata={"v": value}))
        put_metric("m", value)
        assert [r.name for r in seen] == ["e", "m"]


@pytest.mark.parametrize(
    "thing", [None, "text", 5, object(), Hostile()], ids=["none", "str", "int", "object", "hostile"]
)
def test_what_is_no_event_is_counted_not_raised(thing: Any) -> None:
    """Recording something that is no event leaves a record that says so, and raises nothing."""
    from elastic_events import record, record_rdzv_event

    with capture() as seen:
        record(thing)
        record_rdzv_event(thing)
        assert [r.name for r in seen] == ["unrecordable", "unrecordable"]


def test_torchs_own_shape_is_accepted() -> None:
    """Anything with the attributes of an event is one: torch's own `Event` is."""
    from elastic_events import record

    with capture() as seen:
        record(SimpleNamespace(name="theirs", source="AGENT", timestamp=5, metadata={"a": 1}))  # type: ignore[arg-type]
        assert seen[0].event == Event("theirs", EventSource.AGENT, 5, {"a": 1})


def test_strict_raises_for_what_json_cannot_hold() -> None:
    """`strict=True` tells the caller, naming the type."""
    from elastic_events import record

    with capture(strict=True) as seen:
        with pytest.raises(MetadataError, match="bytes"):
            record(Event("e", EventSource.WORKER, metadata={"v": b""}))
        record(Event("fine", EventSource.WORKER, metadata={"v": [1, {"a": None}]}))
        assert [r.name for r in seen] == ["fine"]
