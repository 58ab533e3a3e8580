"""Events of classes that somebody derived, or wrote: what they add, and what they say of themselves, is kept."""

import json
import logging
from dataclasses import dataclass, field
from typing import Any

import pytest

import elastic_events
from elastic_events import EventBus
from elastic_events.testing import capture
from tests.torch.worlds import OURS, THEIRS, rdzv


@pytest.mark.parametrize("world", [OURS, THEIRS], ids=["ours", "torch's"])
def test_added_fields_are_kept(world: Any) -> None:
    """The fields that a subclass adds are in the metadata, where the metadata has none of that name."""

    @dataclass
    class Mine(world.events.Event):  # type: ignore[misc, name-defined]
        rank: int = 3
        tags: list[str] = field(default_factory=lambda: ["a"])

    with capture() as seen:
        for _ in range(2):
            elastic_events.record(Mine("e", world.events.EventSource.AGENT, 5, {"tags": "its own"}))
        assert [one.metadata for one in seen.events] == [{"rank": 3, "tags": "its own"}] * 2


@pytest.mark.parametrize("world", [OURS, THEIRS], ids=["ours", "torch's"])
def test_own_serialize_counts(world: Any) -> None:
    """What a class's own `serialize` says is what is recorded, as with torch."""

    class Mine(world.events.Event):  # type: ignore[misc, name-defined]
        def serialize(self) -> str:
            return json.dumps({"name": "said", "source": "AGENT", "timestamp": 7, "metadata": {"a": 1}, "more": [2]})

    with capture() as seen:
        elastic_events.record(Mine("e", world.events.EventSource.AGENT))
        (event,) = seen.events
        assert (event.name, event.source, event.timestamp) == ("said", "AGENT", 7)
        assert event.metadata == {"a": 1, "more": [2]}


@pytest.mark.parametrize("text", ["words", '"words"', "[1]"])
def test_what_only_serializes_is_recorded(text: str) -> None:
    """An object that has nothing but `serialize` is an event with its text."""

    class Only:
        def serialize(self) -> str:
            return text

    with capture() as seen:
        elastic_events.record(Only())
        assert (seen.events[0].name, seen.events[0].metadata) == ("Only", {"serialized": text})


def test_rendezvous_event_for_a_destination() -> None:
    """`record` of a rendezvous event goes to the destination that is named, as with torch."""
    texts: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(record.getMessage())

    for world in (OURS, THEIRS):
        world.handlers._log_handlers["mine"] = Keep()
        try:
            if world is OURS:
                with EventBus():
                    world.events.record(rdzv(world), "mine")
            else:
                world.events.record(rdzv(world), "mine")
        finally:
            del world.handlers._log_handlers["mine"]
            logger = world.events._events_loggers.pop("mine", None)
            if logger is not None:
                logger.handlers.clear()
    assert len(texts) == 2
    assert json.loads(texts[0]) == json.loads(texts[1])
