"""The events of torch's API: made, compared, serialized and read back; and what a record gives back."""

import dataclasses
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import elastic_events
from elastic_events import Event, EventSource, NodeState, RdzvEvent, record, record_rdzv_event
from elastic_events import api as events_api
from elastic_events.testing import FakeClock, capture

scalars = st.one_of(st.text(), st.integers(), st.floats(allow_nan=False), st.booleans(), st.none())


def rdzv(**changes: Any) -> RdzvEvent:
    """Make a rendezvous event whose every field is set."""
    made = RdzvEvent("f.py:join", "run", "joined", "host", 7, NodeState.SUCCEEDED, "host:29500", 3, 1, "trace")
    return dataclasses.replace(made, **changes)


def test_module_has_torchs_names() -> None:
    """`elastic_events.api` names what torch's does, sorted."""
    assert events_api.__all__ == ("Event", "EventMetadataValue", "EventSource", "NodeState", "RdzvEvent")
    assert all(getattr(elastic_events, name) is getattr(events_api, name) for name in events_api.__all__)


@given(st.text(), st.sampled_from(EventSource), st.integers(), st.dictionaries(st.text(), scalars))
def test_event_comes_back_from_its_text(name: str, source: EventSource, timestamp: int, metadata: Any) -> None:
    """Any event of JSON's own values is equal to what `deserialize` makes of its text (F58)."""
    event = Event(name, source, timestamp, metadata)
    assert Event.deserialize(event.serialize()) == event
    assert event.serialize() == str(event) == json.dumps(dataclasses.asdict(event))
    assert event.serialize().isascii()


@pytest.mark.parametrize("state", NodeState)
def test_rdzv_event_comes_back_from_its_text(state: NodeState) -> None:
    """A rendezvous event is equal to what `deserialize` makes of its text, and comes back as itself."""
    event = rdzv(node_state=state)
    back = RdzvEvent.deserialize(event.serialize())
    assert back == event
    assert isinstance(back.node_state, NodeState)
    assert RdzvEvent.deserialize(event) is event
    assert str(event) == event.serialize()


def test_event_is_a_plain_dataclass() -> None:
    """Events are mutable, comparable, unhashable and picklable, and share no metadata."""
    event = Event("a", EventSource.WORKER)
    assert event.timestamp == 0
    assert event.metadata == {}
    assert event.metadata is not Event("b", EventSource.WORKER).metadata
    event.name = "c"
    assert pickle.loads(pickle.dumps(event)) == event == dataclasses.replace(event)
    assert Event("a", "AGENT") == Event("a", EventSource.AGENT)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unhashable"):
        hash(event)


@pytest.mark.parametrize("kind", [Event, RdzvEvent])
@pytest.mark.parametrize("wrong", [{"name": "a"}, b'{"name": "a"}', None, 3, "[1]", '"text"', "3", "null"])
def test_deserialize_says_what_it_takes(kind: Any, wrong: Any) -> None:
    """What is no text of an event raises one clear TypeError that names what it was (torch: UnboundLocalError)."""
    with pytest.raises(TypeError, match=r"not (dict|bytes|NoneType|int|list|str)$"):
        kind.deserialize(wrong)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", json.JSONDecodeError),
        ('{"name": "a"}', KeyError),
        ('{"name": "a", "source": "NOBODY"}', KeyError),
        ('{"name": "a", "source": null}', KeyError),
        ('{"source": "AGENT"}', TypeError),
        ('{"name": "a", "source": "AGENT", "more": 1}', TypeError),
    ],
)
def test_deserialize_raises_as_torch(text: str, error: type[Exception]) -> None:
    """A text that is no whole event raises what torch raises."""
    with pytest.raises(error):
        Event.deserialize(text)


@pytest.mark.parametrize("value", [b"x", {1}, object(), float])
def test_serialize_refuses_what_json_cannot_hold_and_record_does_not(value: Any) -> None:
    """`serialize` raises as torch's does; `record` coerces, and its record's event serializes (F57, F58)."""
    event = Event("a", EventSource.WORKER, 0, {"value": value})
    with pytest.raises(TypeError, match="not JSON serializable"):
        event.serialize()
    with capture() as seen:
        record(event)
        assert json.loads(seen.events[0].serialize())["name"] == "a"


def test_hostile_values_do_not_reach_the_caller() -> None:
    """A value whose methods raise, a cycle, and keys that collide are recorded (F58, F59, F60)."""

    class Hostile:
        def __str__(self) -> str:
            raise RuntimeError

        __repr__ = __str__

    cycle: dict[str, Any] = {}
    cycle["me"] = cycle
    with capture() as seen:
        for metadata in ({"h": Hostile()}, cycle, {1: "number", "1": "text"}):
            record(Event("hard", EventSource.WORKER, 0, metadata))
        assert [event.name for event in seen.events] == ["hard"] * 3
        assert sorted(seen.events[2].metadata.values()) == ["number", "text"]
        for event in seen.events:
            event.serialize()


def test_recorded_event_has_the_time_of_the_call() -> None:
    """A timestamp of 0 becomes the time of `record()` in milliseconds; one that was given stays."""
    clock = FakeClock(time_ns=1_700_000_000_123_456_789)
    with capture(clock=clock.monotonic_ns, wall_clock=clock.time_ns) as seen:
        record(Event("now", EventSource.AGENT))
        record(Event("then", EventSource.AGENT, 5))
        assert [event.timestamp for event in seen.events] == [1_700_000_000_123, 5]


def test_recorded_event_equals_what_was_recorded() -> None:
    """A record's event is the caller's in type and value, and a later change of the caller's does not show (M10)."""
    event, meeting = Event("a", EventSource.WORKER, 5, {"k": 1, "f": 0.5, "n": None}), rdzv()
    with capture() as seen:
        record(event)
        record_rdzv_event(meeting)
        before = dataclasses.replace(event, metadata=dict(event.metadata))
        event.metadata["k"] = 2
        assert seen.events == [before, meeting]
        assert seen.events[0].source is EventSource.WORKER
        assert seen.events[1].node_state is NodeState.SUCCEEDED
        assert seen[0].event is seen[0].event  # built once for all lanes


def test_unknown_source_stays_a_string() -> None:
    """A source or state that torch does not know is delivered as it was given."""
    with capture() as seen:
        record(Event("a", "LAUNCHER", 5))  # type: ignore[arg-type]
        record_rdzv_event(rdzv(node_state="LEAVING"))
        assert seen.events[0].source == "LAUNCHER"
        assert seen.events[1].node_state == "LEAVING"
