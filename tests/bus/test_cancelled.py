"""A bus that is cancelled at each of its checkpoints, one after the other: the books are exact and nothing is left."""

import asyncio
import contextlib
import gc
import os
import threading
import time
import types
from collections.abc import Callable, Coroutine, Generator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from elastic_events import EventBus, Record
from elastic_events.bus.ledger import BusStats
from elastic_events.sinks import read_jsonl
from elastic_events.testing import ListSink

#: Checkpoints that no scenario has: one that never ends fails here.
MANY = 2000

#: Seconds for all records of a scenario to arrive, and for a thread to end.
PATIENCE = 30.0


@types.coroutine
def counted(coroutine: Coroutine[Any, Any, None], at: int, cancel: Callable[[], object]) -> Generator[Any, Any, bool]:
    """Run `coroutine` and call `cancel()` as it waits for the time number `at`; return whether it came so far."""
    number, resume, value = 0, coroutine.send, None
    while True:
        try:
            waits_for = resume(value)
        except StopIteration:
            return number > at
        if number == at:
            cancel()
        number += 1
        try:
            value, resume = (yield waits_for), coroutine.send
        except BaseException as error:  # noqa: BLE001 - thrown in, as the coroutine would have it
            value, resume = error, coroutine.throw


class Slow(ListSink):
    """A sink that waits at each call."""

    async def open(self) -> None:
        """Open, in two turns of the loop."""
        await super().open()
        await anyio.lowlevel.checkpoint()

    async def write(self, records: Sequence[Record]) -> None:
        """Keep the records, after a turn of the loop."""
        await anyio.lowlevel.checkpoint()
        await super().write(records)

    async def aclose(self) -> None:
        """Close, after a turn of the loop."""
        await anyio.lowlevel.checkpoint()
        await super().aclose()


class Scene:
    """One run of a bus, from its opening to its end, and what it recorded."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.first, self.second = Slow(), Slow()
        self.bus = EventBus(self.first, f"jsonl:///{file}", recorder=False, timeout=PATIENCE, interval=0.001)
        self.recorded = 0
        self.second_from: int | None = None  # the first number of the second sink
        self.second_until: int | None = None
        self.closed_at: int | None = None

    def emit(self) -> None:
        """Record three metric points."""
        for _ in range(3):
            self.bus.put_metric("m", self.recorded)
            self.recorded += 1

    async def play(self) -> None:
        """Open, emit, flush, subscribe, emit, flush, unsubscribe, emit, close, and close again."""
        async with self.bus:
            self.emit()
            await self.bus.flush(PATIENCE)
            lane = self.bus.subscribe(self.second, name="second")
            self.second_from = self.recorded
            self.emit()
            await self.bus.flush(PATIENCE)
            self.emit()
            self.second_until = self.recorded
            await lane.aclose()
            self.emit()
            await self.bus.aclose()
            self.closed_at = self.recorded
            self.emit()
            await self.bus.aclose()

    def check(self) -> None:
        """Compare what the sinks have with what was recorded, and the ledger with both."""
        stats = self.bus.stats()
        everything = list(range(self.recorded if self.closed_at is None else self.closed_at))
        on_disk = [one.fields[0] for one in read_jsonl(self.file) if one.kind == "metric"] if self.file.exists() else []
        assert (stats.state, stats.errors) == ("closed", 0), stats
        self.agrees(stats, "Slow", everything, [one.fields[0] for one in self.first.payload])
        self.agrees(stats, "jsonl", everything, on_disk)
        if self.second_from is not None:
            mine = everything[self.second_from : self.second_until]
            self.agrees(stats, "second", mine, [one.fields[0] for one in self.second.payload])
        for sink in (self.first, self.second):
            assert sink.closed >= sink.opened  # asyncio may cancel a call of `open` before it begins

    @staticmethod
    def agrees(stats: BusStats, lane: str, expected: list[int], found: list[int]) -> None:
        """Each record of a lane arrived once, in order, and its ledger says so."""
        sums = stats.lanes[lane]
        assert found == expected, (lane, sums)
        assert (sums.accepted, sums.delivered, sums.pending, sums.lost) == (len(expected), len(expected), 0, 0), lane


async def in_scope(scene: Scene, at: int) -> bool:
    """Cancel a scope around the scene as it waits for the time number `at`; return whether it came so far."""
    with anyio.CancelScope() as scope:
        await counted(scene.play(), at, scope.cancel)
    return scope.cancel_called


async def in_task(scene: Scene, at: int) -> bool:
    """As `in_scope`, by asyncio's own cancellation, which knows no shields."""

    async def play() -> None:
        await counted(scene.play(), at, task.cancel)

    task = asyncio.ensure_future(play())
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


class Turns(asyncio.SelectorEventLoop):
    """A loop that cancels all its tasks at turn number `at`, as the end of `asyncio.run` does."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at

    def _run_once(self) -> None:
        if self.left == 0:
            for task in asyncio.all_tasks(self):
                task.cancel()
        self.left -= 1
        super()._run_once()  # type: ignore[misc]


def everywhere(scene: Scene, at: int) -> bool:
    """Play the scene in a loop whose tasks are all cancelled at turn number `at`; return whether it came so far."""

    async def play() -> bool:
        with contextlib.suppress(asyncio.CancelledError):
            await scene.play()
        reached, loop.left = loop.left < 0, -1
        return reached

    # Its first turn begins the task: one that is cancelled before never begins.
    with asyncio.Runner(loop_factory=lambda: Turns(at + 1)) as runner:
        loop = runner.get_loop()
        return runner.run(play())


def in_backend(how: Callable[[Scene, int], Coroutine[Any, Any, bool]], backend: str) -> Callable[[Scene, int], bool]:
    """Return what runs `how` in an event loop."""
    return lambda scene, at: anyio.run(how, scene, at, backend=backend)


def left() -> tuple[set[str], int]:
    """Return which threads there are, but for those that the back ends keep for a while, and how many descriptors."""
    ours = {thread.name for thread in threading.enumerate() if not thread.name.startswith(("Trio thread", "AnyIO"))}
    return ours, len(os.listdir("/proc/self/fd"))


def in_time(condition: Callable[[], bool]) -> bool:
    """Return whether it comes true: a thread that was told to end takes its time."""
    end = time.monotonic() + PATIENCE
    while not (true := condition()) and time.monotonic() < end:
        gc.collect()  # loops and tasks are cycles
        time.sleep(0.001)
    return true


@pytest.mark.filterwarnings(
    "ignore:coroutine .* was never awaited"
)  # a task of anyio that was cancelled before it began
@pytest.mark.parametrize(
    "run",
    [
        pytest.param(in_backend(in_scope, "asyncio"), id="a scope of asyncio"),
        pytest.param(in_backend(in_scope, "trio"), id="a scope of trio"),
        pytest.param(in_backend(in_task, "asyncio"), id="a task of asyncio"),
        pytest.param(everywhere, id="all tasks of asyncio"),
    ],
)
def test_cancelled_at_each_checkpoint(
    run: Callable[[Scene, int], bool], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Wherever it is cancelled, what was recorded arrives once, the ledger says so, and no thread, task or file is left."""
    before = left()
    for at in range(MANY):
        scene = Scene(tmp_path / f"{at}.jsonl")
        reached = run(scene, at)
        scene.check()
        assert in_time(lambda: left() == before), (at, left())
        if not reached:
            break
    else:
        raise AssertionError("it never ran through")
    assert at > 5  # it was cancelled on its way
    gc.collect()  # here, or a test to come is told of what the last of them left
    said = capfd.readouterr().err
    assert "lost" not in said, said
