"""`prof`: what is published for every way a call can end."""

import functools
import inspect
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any
from unittest.mock import AsyncMock

import anyio
import pytest

from elastic_events.testing import Capture, capture
from elastic_metrics import MetricHandler, MetricStream, prof, profile
from elastic_metrics import api as metrics_api


@pytest.fixture
def seen() -> Iterator[Capture]:
    """What is recorded."""
    with capture() as records:
        yield records


def published(seen: Capture) -> list[str]:
    """Return the last part of each published name, and check its group and value."""
    for point in seen.metrics:
        assert point.group_name == "torchelastic"
        assert point.value >= 0
    return [".".join(point.name.split(".")[2:]) for point in seen.metrics]


@prof
def good(x: int) -> int:
    """Return twice x."""
    return 2 * x


@prof()
def bad() -> None:
    """Fail."""
    raise ValueError


def test_success(seen: Capture) -> None:
    """A call that returns publishes success and duration under `module.function`."""
    assert good(4) == 8
    assert [point.name for point in seen.metrics] == ["test_profiling.good.success", "test_profiling.good.duration.ms"]


def test_failure(seen: Capture) -> None:
    """A call that raises publishes failure and duration, and raises."""
    with pytest.raises(ValueError, match=r"^$"):
        bad()
    assert published(seen) == ["failure", "duration.ms"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_leaving_is_neither_success_nor_failure(seen: Capture, error: type[BaseException]) -> None:
    """Ctrl-C and `SystemExit` publish a duration only, as in torch."""

    @prof
    def leave() -> None:
        raise error

    with pytest.raises(error):
        leave()
    assert [point.name.rpartition(">.")[2] for point in seen.metrics] == ["leave.duration.ms"]


def test_methods_are_named_by_their_class(seen: Capture) -> None:
    """A method's metrics carry its qualified name, and the group that was given."""

    class Agent:
        @prof(group="mine")
        def run(self) -> str:
            return "ran"

    assert Agent().run() == "ran"
    assert [point.group_name for point in seen.metrics] == ["mine", "mine"]
    assert seen.metrics[0].name.endswith("Agent.run.success")


def test_partial(seen: Capture) -> None:
    """A partial function is published under the name of its function."""
    assert prof(functools.partial(int, "12"))() == 12
    assert seen.metrics[0].name == "builtins.int.success"


async def test_coroutine_is_timed_to_its_end(seen: Capture) -> None:
    """A coroutine publishes when it ends, not when it is made."""
    gate = anyio.Event()

    @prof
    async def work() -> str:
        await gate.wait()
        return "done"

    made = work()
    assert published(seen) == []
    gate.set()
    assert await made == "done"
    assert len(seen) == 2


async def test_an_object_that_is_called_is_timed_to_its_end(seen: Capture) -> None:
    """An object or a partial whose call is a coroutine, or a generator, publishes when that ends, as a function does."""

    class Work:
        async def __call__(self) -> str:
            return "done"

    class Items:
        def __call__(self) -> Iterator[int]:
            yield 1

    def many(count: int) -> Iterator[int]:
        yield from range(count)

    made, items, others = prof(Work())(), prof(Items())(), prof(functools.partial(many, 2))()
    assert next(items) == 1
    assert next(others) == 0
    assert published(seen) == []
    assert await made == "done"
    assert list(items) == []
    assert list(others) == [1]
    assert len(seen) == 6


async def test_what_says_itself_that_it_is_a_coroutine_is_timed_to_its_end(seen: Capture) -> None:
    """A function that a compiler made, as Cython does, is an object that has what a function has; so is a mock."""

    async def work() -> str:
        return "done"

    class Compiled:
        __name__ = "work"
        __code__ = work.__code__
        __defaults__ = None
        __kwdefaults__ = None

        def __call__(self) -> Coroutine[Any, Any, str]:
            return work()

    for one in (Compiled(), AsyncMock(return_value="done")):
        wrapped = prof(one)
        assert inspect.iscoroutinefunction(wrapped)
        made = wrapped()
        assert len(seen) % 2 == 0
        assert await made == "done"
    assert len(seen) == 4


async def test_cancelled_coroutine_is_no_failure(seen: Capture) -> None:
    """A cancellation publishes a duration only."""

    @prof
    async def work() -> None:
        await anyio.sleep_forever()

    with anyio.move_on_after(0):
        await work()
    assert [point.name.rpartition(">.")[2] for point in seen.metrics] == ["work.duration.ms"]


def test_generator_is_timed_to_its_end(seen: Capture) -> None:
    """A generator publishes when it is exhausted, and passes values, sends and returns through."""

    @prof
    def numbers() -> Iterator[Any]:
        got = yield 1
        yield got
        return "end"

    source = numbers()
    assert next(source) == 1
    assert len(seen) == 0
    assert source.send("sent") == "sent"
    with pytest.raises(StopIteration, match="end"):
        next(source)
    assert len(seen) == 2


def test_generator_closed_early_is_no_failure(seen: Capture) -> None:
    """Leaving a generator early publishes a duration only."""

    @prof
    def numbers() -> Iterator[int]:
        yield 1

    source = numbers()
    next(source)
    source.close()
    assert [point.name.rpartition(">.")[2] for point in seen.metrics] == ["numbers.duration.ms"]


async def test_async_generator(seen: Capture) -> None:
    """An async generator publishes at its end, and passes sends and throws through."""

    @prof
    async def numbers() -> AsyncIterator[Any]:
        try:
            got = yield 1
            yield got
        except KeyError:
            yield "caught"

    source = numbers()
    assert await source.asend(None) == 1
    assert await source.asend("sent") == "sent"
    assert await source.athrow(KeyError()) == "caught"
    with pytest.raises(StopAsyncIteration):
        await source.asend(None)
    assert len(seen) == 2


def test_handler_that_raises_never_changes_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """A synchronous handler that raises does not cost the return value (torch loses it)."""

    class Raises(MetricHandler):
        def emit(self, metric_data: Any) -> None:
            raise RuntimeError("sink")

    monkeypatch.setattr(metrics_api, "getStream", lambda group: MetricStream(group, Raises()))
    assert good(4) == 8
    with pytest.raises(ValueError, match=r"^$"):
        bad()


def test_get_stream_is_looked_up_at_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that replace `getStream` see every point, at once, in the caller's thread."""
    got: list[str] = []

    class Keep(MetricHandler):
        def emit(self, metric_data: Any) -> None:
            got.append(metric_data.name)

    monkeypatch.setattr(metrics_api, "getStream", lambda group: MetricStream(group, Keep()))
    good(1)
    assert got == ["test_profiling.good.success", "test_profiling.good.duration.ms"]


def test_profile_warns_and_uses_the_bare_name(seen: Capture) -> None:
    """The deprecated `profile` warns, and publishes under the function's bare name."""
    with pytest.warns(FutureWarning, match="use prof"):
        decorate = profile("old")
    assert decorate(lambda: 3)() == 3
    assert seen.metrics[0].name == "<lambda>.success"
