"""The stored form: strict JSON out of everything, and the record back."""

import datetime
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_events.bus.codec import encode, encode_hard, plain
from elastic_events.bus.context import Context
from elastic_events.bus.errors import InputError
from elastic_events.bus.pump import to_records
from elastic_events.bus.record import Record, record_of
from elastic_events.sinks import stored
from elastic_events.sinks.sqlite_schema import to_row, to_values
from elastic_events.sinks.stored import from_json, strict_json, to_json, to_lines
from tests.records import changed
from tests.sinks.factory import event, ledger, metric, rdzv
from tests.streams import STREAMS, load, same, values

plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=("Cs",))), inner, max_size=4)
    ),
    max_leaves=20,
)
any_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.datetimes() | st.decimals(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(), inner, max_size=4
        )
    ),
    max_leaves=20,
)


def strictly(data: bytes) -> Any:
    """Parse JSON as the standard has it: no NaN, no key twice."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), "a key twice"
        return dict(pairs)

    return json.loads(data.decode(), parse_constant=refuse, object_pairs_hook=unique)


@given(plain_values, st.dictionaries(st.text(st.characters(exclude_categories=("Cs",))), plain_values), st.booleans())
def test_what_json_can_hold_comes_back_equal(value: Any, metadata: dict[str, Any], recovered: bool) -> None:
    """A record of JSON values is read back equal, types included."""
    records = [metric(1, value, recovered=recovered), event(2, metadata), rdzv(3, str(metadata)), ledger(4)]
    if value in ("NaN", "Infinity", "-Infinity"):
        records.pop(0)
    assert same([from_json(to_json(record)) for record in records], records)


@given(any_values, st.text(), any_values)
def test_everything_has_a_stored_form(value: Any, name: str, channel: Any) -> None:
    """F56, F58: any value in any field gives one line of strict JSON, which reads back to the same line."""
    for record in (
        metric(1, value, name),
        event(2, {"key": value, "other": [value]}, name, channel=channel),
        event(3, value, context=Context(run_id=name, role=name)),
        record_of("rdzv", 4, 1, 2, name, channel, (value,) * 9, Context()),
    ):
        line = to_json(record)
        assert b"\n" not in line
        strictly(line)
        assert to_json(from_json(line)) == line


@given(any_values)
def test_every_frame_of_the_encoder_has_a_stored_form(value: Any) -> None:
    """F56, F58: what the total encoder lets into a ring is stored as strict JSON and read back to the same line."""
    frame = encode_hard((1, 2, "name", "null", "WORKER", 0, {"key": value, 1: value}))
    record = to_records([frame], Context(), 0)[0]
    line = to_json(record)
    strictly(line)
    assert to_json(from_json(line)) == line


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_not_a_number_is_strict_json(number: float) -> None:
    """F56: NaN and the infinities are strings in every container, and a metric's value is the number again."""
    assert strictly(to_json(event(1, {"a": number, "b": [number, {"c": number}]})))["metadata"]["a"] in (
        "NaN",
        "Infinity",
        "-Infinity",
    )
    assert strictly(to_json(event(1, {"a": number})))["metadata"]["a"] in ("NaN", "Infinity", "-Infinity")
    assert repr(from_json(to_json(metric(1, number))).fields) == repr((number,))


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ({1: "a", "1": "b"}, {"1'": "a", "1": "b"}),
        ({"1": "b", 1: "a"}, {"1": "b", "1'": "a"}),
        ({1: "a", "1": "b", "1'": "c", 1.5: "d", None: "e", False: "f"}, None),
        ({b"x": 1, "x": 2}, {"x'": 1, "x": 2}),
        ({"\ud800": 1, "\\ud800": 2}, {"\\ud800": 1, "\\ud800'": 2}),
        ({math.nan: 1, "NaN": 2}, {"NaN'": 1, "NaN": 2}),
    ],
)
def test_keys_that_meet_as_strings_are_both_kept(mapping: dict[Any, Any], expected: dict[str, Any] | None) -> None:
    """F60: no value is lost to another whose key has the same text, at any depth."""
    for depth in (0, 3):
        stored = strictly(strict_json(mapping))
        nested: Any = mapping
        for _ in range(depth):
            nested = {"in": nested}
        found = strictly(to_json(event(1, nested)))["metadata"]
        for _ in range(depth):
            found = found["in"]
        assert found == stored
        assert len(stored) == len(mapping)
        assert expected is None or stored == expected


def test_numpy_and_torch_like_scalars_are_their_values() -> None:
    """F57: a numpy scalar that reached a record is stored as its Python value."""
    numpy = pytest.importorskip("numpy")
    for dtype in ("int8", "uint64", "float16", "float64", "bool"):
        scalar = numpy.dtype(dtype).type(1)
        assert strictly(to_json(metric(1, scalar)))["value"] == scalar.item()


def test_hostile_depth_cycles_and_size_are_bounded() -> None:
    """F58: a value that contains itself, or nests for ever, gives a line that any parser takes."""
    cycle: list[Any] = []
    cycle += [cycle, cycle]
    deep: Any = 1
    for _ in range(10_000):
        deep = [deep]
    for value in (cycle, deep, {"a": deep}, 10**5000, "x" * 10**6):
        line = to_json(event(1, {"value": value}))
        assert len(line) < 3 * 10**6
        strictly(line)


def test_other_types_become_text() -> None:
    """F58: bytes, times and integers beyond 64 bits are stored as text."""
    value = {
        "bytes": b"a\xff",
        "time": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        "int": 2**70,
        "max": 2**64 - 1,
    }
    assert strictly(to_json(event(1, value)))["metadata"] == {
        "bytes": "a\\xff",
        "time": "2026-01-02T00:00:00+00:00",
        "int": str(2**70),
        "max": 2**64 - 1,
    }


def test_the_line_is_the_documented_object() -> None:
    """The keys and their order are the documented ones, `recovered` only where it is so."""
    stored = strictly(to_json(event(5, {"step": 1})))
    assert list(stored) == [
        *(
            "id",
            "kind",
            "seq",
            "time_ns",
            "monotonic_ns",
            "name",
            "channel",
            "source",
            "timestamp",
            "metadata",
            "context",
        ),
    ]
    assert stored["id"] == "run/1-2-three/e/5"
    assert strictly(to_json(event(5, recovered=True)))["recovered"] is True


@pytest.mark.parametrize("stream", STREAMS)
def test_captured_torchrun_streams_come_back_equal(stream: str) -> None:
    """Every record of a real torchrun run is read back equal from its stored form."""
    records = load(stream)
    assert same([from_json(to_json(record)) for record in records], records)


def test_a_damaged_line_is_an_input_error() -> None:
    """F68: no line, however damaged, raises anything but InputError."""
    line = to_json(event(1, {"a": [1, "ü"]}))
    for cut in range(len(line)):
        with pytest.raises(InputError):
            from_json(line[:cut])
    for text in (
        b"[]",
        b"1",
        b"{}",
        line.replace(b'"event"', b'"alien"'),
        line.replace(b'"source"', b'"sauce"'),
        b"[" * 99999,
    ):
        with pytest.raises(InputError):
            from_json(text)


@given(st.data())
def test_a_flipped_byte_never_raises_anything_else(data: st.DataObject) -> None:
    """F68: a line with any bytes changed is a record or an InputError."""
    line = bytearray(to_json(event(1, {"a": [1, "ü"]})))
    for _ in range(data.draw(st.integers(1, 4))):
        line[data.draw(st.integers(0, len(line) - 1))] = data.draw(st.integers(0, 255))
    try:
        record = from_json(bytes(line))
    except InputError:
        return
    assert isinstance(record, Record)
    assert values(record)


ONE = record_of("metric", 1, 2, 3, "loss", "g", (1.5,), Context())


@pytest.mark.parametrize(
    "fields",
    [
        *[
            (value,)
            for value in (math.nan, math.inf, -math.inf, 2**64, -(2**63) - 1, 2**2000, True, None, "x", [1], {})
        ],
        *[(value,) for value in (0, -1, 2**64 - 1, -(2**63), 1e308, -1e308, 5e-324, 0.1)],
    ],
)
def test_metrics_are_encoded_many_at_once_as_one_by_one(fields: tuple[Any, ...]) -> None:
    """The short way for numbers gives what the long way gives, whatever one of them is."""
    other = changed(ONE, fields=fields, seq=9)
    for records in (
        [ONE, other],
        [other, ONE],
        [other, other],
        [ONE, other, changed(ONE, fields=(7,))],
    ):
        lines = to_lines(records)
        assert lines == b"".join(to_json(record) + b"\n" for record in records)
        for line in lines.splitlines():
            json.loads(line, parse_constant=pytest.fail)
    value = json.loads(to_json(other))["value"]
    if type(fields[0]) is int:
        assert value == (fields[0] if -(2**63) <= fields[0] < 2**64 else plain(fields[0]))


#: Fields of events that the short ways take or must leave to the long ones.
EVENTS = (
    ("WORKER", 0, {"step": 3, "loss": 0.5, "role": "x", "ok": True, "none": None}),
    ("WORKER", 0, {"step": "three", "loss": math.nan, "role": 2, "ok": -math.inf, "none": 2**64 - 1}),
    ("WORKER", 0, {"step": 2**64, "loss": 1e308}),
    ("AGENT", 2**63, {"deep": {"a": [1, {}]}, "line": "a\nb\u2028c"}),
    ("AGENT", 5, {1: "a", "1": "b"}),
    ("AGENT", 5, {"surrogate": "\ud800"}),
    ("AGENT", -(2**70), {}),
    (None, 0.5, {}),
    ("AGENT", 5, None),
    (["a"], {"t": 1}, [1]),
)


def events_of_all_shapes() -> list[list[Record]]:
    """Return batches of them: each alone, beside a plain one, and twice."""
    one = record_of("event", 1, 2, 3, "e", "null", EVENTS[0], Context())
    batches = []
    for number, fields in enumerate(EVENTS):
        other = changed(one, seq=number + 2, fields=fields)
        batches += [[other], [one, other], [other, other, one]]
    return [*batches, [one, changed(one, name=7)], [one, changed(one, recovered=True)]]


@pytest.mark.parametrize("batch", events_of_all_shapes(), ids=lambda batch: f"{batch[0].fields!a:.40}")
def test_events_are_encoded_many_at_once_as_one_by_one(batch: list[Record]) -> None:
    """The short way for events gives what the long way gives, line by line and for SQLite's columns."""
    assert to_lines(batch) == b"".join(stored._line(record) + b"\n" for record in batch)
    try:
        rows = [value for record in batch for value in to_row(record)]
    except (TypeError, ValueError) as error:  # what the sink leaves to the stored form
        with pytest.raises(type(error)):
            to_values(batch)
    else:
        assert repr(to_values(batch)) == repr(rows)


def test_what_rings_hold_is_encoded_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of all kinds take the quick way: one by one, which is for what no ring holds, they cost five times as much."""

    def one_by_one(_record: Record) -> bytes:
        raise AssertionError

    records = [event(1), metric(1), rdzv(2), metric(2), ledger(4), event(3)]
    expected = [from_json(to_json(record)).id for record in records]
    monkeypatch.setattr(stored, "_line", one_by_one)
    assert [from_json(line).id for line in to_lines(records).splitlines()] == expected


def test_an_event_with_infinite_metadata_is_not_taken_for_one_that_strict_json_holds() -> None:
    """What is known of a record's fields from its decoding is what they are, of every value that a frame may hold."""
    (read,) = to_records([encode((1, 2, "e", "null", "WORKER", 0, {"a": 1.5}))], Context(), 0)
    assert read.flat, "this way must be taken for the test to say something"
    assert not record_of("event", 1, 2, 3, "e", "null", read.fields, Context()).flat, "nobody has looked at these"
    for value in (math.inf, math.nan, -math.inf):
        (odd,) = to_records([encode((1, 2, "e", "null", "WORKER", 0, {"a": value}))], Context(), 0)
        assert isinstance(json.loads(to_json(odd))["metadata"]["a"], str)
