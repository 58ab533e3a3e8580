"""What a user sees of a bus: every method with its docstring, and nothing that is the package's own."""

import inspect
from unittest.mock import Mock, create_autospec

import pytest

from elastic_events import EventBus, Lane

METHODS = {
    *("record", "put_metric", "record_rdzv_event", "bind"),
    *("subscribe", "listen", "next", "collect", "worker_env", "lanes"),
    *("flush", "flush_sync", "settled", "aclose", "close", "open"),
    *("stats", "after_fork"),
}


def test_every_public_method_is_in_the_class_with_its_contract() -> None:
    """`help`, an IDE and a mock's spec see what an instance has."""
    public = {name for name in dir(EventBus) if not name.startswith("_")}
    assert public == METHODS
    for name in METHODS:
        assert inspect.getdoc(inspect.getattr_static(EventBus, name)), name


def test_attributes_of_an_instance_are_few() -> None:
    """Its settings and its context; the rings, the drain and the rest have underscores."""
    bus = EventBus()
    attributes = {name for name in vars(bus) if not name.startswith("_")}
    assert attributes == {"context", "interval", "recorder", "timeout", *("record", "put_metric", "record_rdzv_event")}


def test_bus_can_be_mocked() -> None:
    """By its class, with the signatures that it has."""
    Mock(spec=EventBus).record(1)
    mock = create_autospec(EventBus, instance=True)
    mock.put_metric("m", 1)
    with pytest.raises(TypeError):
        mock.put_metric()
    with pytest.raises(AttributeError):
        _ = mock.emitter


def test_lane_has_its_contract() -> None:
    """What `subscribe` returns is seen as how it stands and how it is ended, each with its docstring."""
    public = {name for name in dir(Lane) if not name.startswith("_")}
    assert public == {"stats", "unsubscribe", "aclose"}
    assert all(inspect.getdoc(getattr(Lane, name)) for name in public)
    lane = create_autospec(Lane, instance=True)
    lane.unsubscribe()
    with pytest.raises(AttributeError):
        _ = lane.backlog
