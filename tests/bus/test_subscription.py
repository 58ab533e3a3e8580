"""What is taken as a handler, and what is refused where it is given."""

import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from elastic_events import ConfigError, EventBus, Record, WouldDeadlock
from elastic_events.testing import ListSink
from elastic_metrics import MetricHandler


def sync(record: Record) -> None:
    """Take a record, in whoever's thread."""


async def good(record: Record) -> None:
    """Take a record."""


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate as libraries do."""

    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return function(*arguments)

    return wrapper


def promising(record: Record) -> Awaitable[None]:
    """Return something to wait for."""
    return good(record)


class Called:
    """An object that is called."""

    async def __call__(self, record: Record) -> None:
        """Take a record."""

    async def method(self, record: Record) -> None:
        """Take a record."""


class CalledNow:
    """An object that is called and does not wait."""

    def __call__(self, record: Record) -> None:
        """Take a record."""


class Mine(MetricHandler):
    """Takes points."""

    def emit(self, metric_data: Any) -> None:
        """Take one."""


def named(handler: Any) -> str:
    """Return the name of a case, the same in each process."""
    return str(getattr(handler, "__name__", type(handler).__name__))


TAKEN = [
    good,
    functools.partial(good),
    wrapped(good),
    promising,
    Called(),
    Called().method,
    ListSink(),
    Mine(),
]
TAKEN += [logging.NullHandler(), "console:"]
REFUSED = [sync, print, lambda record: None, functools.partial(sync), wrapped(sync), CalledNow(), CalledNow().__call__]
REFUSED += [Mine, ListSink, 3, None, object(), [good], "nosuch:///x", "words"]


@pytest.mark.parametrize("handler", TAKEN, ids=named)
def test_handler_that_can_work_is_taken(handler: Any) -> None:
    """Async functions, whatever they are wrapped in, sinks, URLs and torch-style handlers become lanes."""
    assert len(EventBus(handler, recorder=False).lanes) == 1


@pytest.mark.parametrize("handler", REFUSED, ids=named)
def test_handler_that_cannot_work_is_refused(handler: Any) -> None:
    """A function that is not async, a class, and what is nothing of the kind, are refused in a sentence."""
    bus = EventBus(recorder=False)
    with pytest.raises(ConfigError) as refused:
        bus.subscribe(handler)
    assert len(str(refused.value).splitlines()) == 1
    assert bus.lanes == ()


class Nested:
    """A handler whose name another subscribe gives, as a signal handler may that strikes where it is asked for."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus

    @property
    def name(self) -> str:
        """Subscribe, and be named."""
        self._bus.subscribe(good)
        return "nested"

    async def __call__(self, record: Record) -> None:
        """Take a record."""


def test_a_subscribe_in_the_midst_of_another_is_refused() -> None:
    """Who subscribes in the midst of a subscribe, in the same thread, is told so: it would wait for ever."""
    with EventBus(good) as bus:
        with pytest.raises(WouldDeadlock, match="in the midst"):
            bus.subscribe(Nested(bus))
        bus.subscribe(good, name="after")
        assert [lane.name for lane in bus.lanes] == ["good", "after"]
