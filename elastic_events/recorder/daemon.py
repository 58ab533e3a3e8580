"""The collector process: drains the recorders of one directory into the sinks that were asked for there.

One for a directory of a host, however many programs ask. It follows its writers and ends by itself: when all of them have
ended and all is delivered, or when its patience after the last one is over. What is left then stays in the directory, where
the next start, or `elastic-events collect DIR`, goes on. It is told what to do by files only (`request.py`), is woken by a
byte in a FIFO, and says how it stands on a page (`page.py`).
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import msgspec
from anyio.abc import TaskGroup

from elastic_events.bus.bus import EventBus
from elastic_events.bus.context import read_context
from elastic_events.bus.errors import ElasticEventsError
from elastic_events.bus.lane import Lane
from elastic_events.bus.retry import Retry
from elastic_events.recorder.collect import Collector, Outlet
from elastic_events.recorder.directory import SPOOL, Kicks, remove
from elastic_events.recorder.page import LaneLedger, PageWriter, Standing
from elastic_events.recorder.reader import RecorderReader
from elastic_events.recorder.request import Request, drop, read_requests, submit
from elastic_events.sinks.urls import open_url

__all__ = ("Daemon", "main")

#: Seconds between two looks while nothing comes.
IDLE = 0.25

#: Seconds between two looks, at least, unless somebody kicks or a ring was found full.
BUSY = 0.01

#: Seconds from one scan for new files and dead processes to the next.
SCAN = 0.25

#: Seconds that a sink may take to write the rest and its ledger when its run is over.
LAST_WORDS = 5.0

#: A sink that is away is a delay, never a reason to give up: what it refuses is another matter.
FOREVER = Retry(budget=float("inf"), cap=2.0)


class Run:
    """The lanes of one run: a bus whose records all come from recorder files."""

    def __init__(self, run_id: str, directory: Path) -> None:
        self.run_id = run_id
        self.lanes: dict[int, Lane] = {}
        self.requests: dict[int, Request] = {}
        self.ledgers: tuple[LaneLedger, ...] = ()  #: as they were when the bus was closed
        self._spools = directory / SPOOL
        context = msgspec.structs.replace(read_context({}), run_id=run_id or "none", role="collector")
        self.bus = EventBus(context=context, interval=IDLE, deadline=LAST_WORDS)
        self._over = anyio.Event()
        self._closed = anyio.Event()

    async def serve(self, *, task_status: Any) -> None:
        """Keep the bus open until `close`."""
        async with self.bus:
            task_status.started()
            await self._over.wait()
        self.ledgers = tuple(self._standing())
        self._closed.set()

    def add(self, request: Request) -> Lane:
        """Make a lane for `request`.

        Raises:
            ElasticEventsError: its URL is wrong here, or its package is missing.
        """
        with _environment(request.environ):
            sink = open_url(request.url)
        lane = self.bus.subscribe(sink, name=request.url.partition(":")[0], retry=FOREVER)
        self.lanes[request.key], self.requests[request.key] = lane, request
        return lane

    def outlet(self, keys: set[int]) -> list[Lane]:
        """Return the lanes for a file of this run that names the requests `keys`."""
        return [lane for key, lane in self.lanes.items() if key in keys or self.requests[key].everyone]

    @property
    def settled(self) -> bool:
        """Whether nothing waits in any lane."""
        return all(not lane.unsettled for lane in self.lanes.values())

    async def close(self, timeout: float) -> None:
        """Let the lanes deliver what is left within `timeout` seconds; the rest stays in their spools."""
        self.bus.deadline = timeout
        self._over.set()
        await self._closed.wait()

    def standing(self) -> tuple[LaneLedger, ...]:
        """Return the ledgers of the lanes."""
        return self.ledgers or tuple(self._standing())

    def _standing(self) -> Iterator[LaneLedger]:
        for key, lane in self.lanes.items():
            yield LaneLedger(lane.name, self.run_id, key, self.requests[key].everyone, lane.stats()._asdict())


class Daemon:
    """The collector of one directory, from its lock to its end.

    Args:
        directory: to collect.
        lock: descriptor of the directory's lock.
        stay: go on when nothing is left, until `stop`; for the command.
    """

    def __init__(self, directory: Path, lock: int, *, stay: bool = False) -> None:
        self.directory = directory
        self.undelivered = 0
        self._stay = stay
        self._stop = False
        self._known: dict[int, Request] = {}
        self._wrong: set[str] = set()
        self._runs: dict[str, Run] = {}
        self._about: EventBus | None = None
        self.collector = Collector(directory, self._outlet, self._tell)
        self.collector.open(lock)
        self._kicks = Kicks(directory)
        self._page = PageWriter(directory)
        self._woken = anyio.Event()
        self._last_writer = time.monotonic()

    async def run(self) -> None:
        """Collect until nothing is left to do; close what was opened and remove what was made."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._hear)
            await self._work(tasks)
            await self._close_runs(list(self._runs.values()), self._remaining())
            tasks.cancel_scope.cancel()
        self._end()

    def stop(self) -> None:
        """End as soon as what is there is delivered, or at once where nothing waits; any signal handler may call it."""
        self._stop = True

    # --- the loop ---

    async def _work(self, tasks: TaskGroup) -> None:
        pause, scanned, looked = 0.0, 0.0, time.monotonic()
        while True:
            kicked = self._kicks.clear()
            now = time.monotonic()
            if kicked or now - scanned >= SCAN:
                await self._open_requests(tasks)
                self.collector.scan()
                await self._finish_runs()
                scanned = now
            filled = self.collector.sweep()
            self._note()
            if self._done():
                return
            pause = _pause(filled, now - looked)
            looked = now
            self._woken = anyio.Event()
            with anyio.move_on_after(pause):
                await self._woken.wait()
            self.collector.commit()

    async def _hear(self) -> None:
        while True:
            await anyio.wait_readable(self._kicks.descriptor)
            self._woken.set()
            await anyio.sleep(0.001)  # the loop takes the kick

    async def _follow(self, lane: Lane) -> None:
        """Wake the loop when a lane has delivered: somebody may wait in a flush for the file to say so."""
        while True:
            await lane.progress.wait()
            self._woken.set()

    def _done(self) -> bool:
        if self.collector.live:
            self._last_writer = time.monotonic()
            return False
        waiting = self.collector.files or not all(run.settled for run in self._runs.values())
        if self._stop:
            return not waiting or self._remaining() <= 0
        if self._stay:
            return False
        return not waiting or self._remaining() <= 0

    def _remaining(self) -> float:
        """Return the seconds that are left for sinks that are away, since the last writer has ended."""
        patience = max((request.patience for request in self._known.values()), default=LAST_WORDS)
        return max(patience - (time.monotonic() - self._last_writer), 0.0)

    # --- requests and runs ---

    async def _open_requests(self, tasks: TaskGroup) -> None:
        fresh, wrong = read_requests(self.directory, self._known)
        for sentence in wrong:
            self._complain(sentence)
        self._known.update(fresh)
        for key, request in self._known.items():
            run = self._runs.get(request.run_id)
            if (run is None or key not in run.lanes) and self._wanted(request):
                await self._open(tasks, request)

    def _wanted(self, request: Request) -> bool:
        """Whether a request is to be served: it is there, or a process that names it writes on when its run was over."""
        path = self.directory / ".requests" / f"{request.key:016x}.json"
        if not path.exists() and request.run_id in self.collector.live:
            with contextlib.suppress(OSError):
                submit(self.directory, request)
        return path.exists()

    async def _open(self, tasks: TaskGroup, request: Request) -> None:
        run = self._runs.get(request.run_id)
        if run is None:
            run = self._runs[request.run_id] = Run(request.run_id, self.directory)
            await tasks.start(run.serve)
        try:
            tasks.start_soon(self._follow, run.add(request))
        except ElasticEventsError as error:
            self._complain(f"{request.url.partition(':')[0]}: {error}")
            del self._known[request.key]  # what is wrong may be mended: the next scan tries again

    async def _finish_runs(self) -> None:
        """Close the runs whose processes have all ended, and whose records are all delivered."""
        if self._stay:
            return
        busy = self.collector.runs
        over = [run for name, run in self._runs.items() if (name not in busy if name else not busy) and run.settled]
        if over and len(over) < len(self._runs):  # the last ones are closed at the end
            await self._close_runs(over, LAST_WORDS)
            for run in over:
                self._forget(run)

    async def _close_runs(self, runs: list[Run], timeout: float) -> None:
        async with anyio.create_task_group() as tasks:
            for run in runs:
                tasks.start_soon(run.close, timeout if not run.settled else LAST_WORDS)

    def _forget(self, run: Run) -> None:
        del self._runs[run.run_id]
        for key in run.requests:
            drop(self.directory, key)
            del self._known[key]

    def _outlet(self, reader: RecorderReader) -> Outlet | None:
        run_id, keys = reader.header.context.run_id, reader.requests
        lanes = [
            lane for name in dict.fromkeys((run_id, "")) if name in self._runs for lane in self._runs[name].outlet(keys)
        ]
        bus = self._runs.get(run_id) or self._runs.get("") or next(iter(self._runs.values()), None)
        return (lanes, bus.bus.record) if lanes and bus is not None else None

    def _tell(self, event: Any) -> None:
        for run in self._runs.values():
            run.bus.record(event)

    # --- what it says ---

    def _note(self, *, ended: bool = False) -> None:
        lanes = tuple(ledger for run in self._runs.values() for ledger in run.standing())
        self._page.write(Standing(os.getpid(), time.time_ns(), lanes, ended))

    def _complain(self, sentence: str) -> None:
        if sentence not in self._wrong:
            self._wrong.add(sentence)
            sys.stderr.write(f"elastic_events: {sentence}\n")
            sys.stderr.flush()

    # --- the end ---

    def _end(self) -> None:
        self.collector.commit()
        self.collector.scan()
        self.undelivered = sum(lane.stats().pending for run in self._runs.values() for lane in run.lanes.values())
        self._note(ended=True)
        if not self.collector.files and not self.undelivered:
            private = any(request.private for request in self._known.values())
            for run in list(self._runs.values()):
                self._forget(run)
            remove(self.directory, whole=private)
        self._kicks.close()
        self._page.close()
        self.collector.close()


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Let a sink read the environment of the program that asks for it."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _pause(filled: float, seconds: float) -> float:
    """Return how long to wait until the next look, which is to find no more than a quarter of a ring filled."""
    if filled <= 0:
        return IDLE
    return min(max(seconds * 0.25 / filled, BUSY), IDLE) if filled < 1 else 0.0


def main(directory: str, lock: int) -> None:
    """Be the collector of `directory`, whose lock is the descriptor `lock`. Called in a process of its own."""
    os.umask(0o077)
    os.nice(10)
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    anyio.run(Daemon(Path(directory), lock).run)
    os._exit(0)
