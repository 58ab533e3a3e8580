"""The collector process: drains the recorders of one directory into the sinks that were asked for there.

One for a directory of a host, however many programs ask. It follows its writers and ends by itself: when all of them have
ended and all is delivered, or when its patience after the last one is over. What is left then stays in the directory, where
the next start, or `elastic-events collect DIR`, goes on. It is told what to do by files only (`request.py`), is woken by a
byte in a FIFO, and says how it stands on a page (`page.py`).
"""

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
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
from elastic_events.recorder.alive import is_locked
from elastic_events.recorder.collect import Collector, Outlet
from elastic_events.recorder.directory import REQUESTS, SPOOL, Kicks, remove, rings, secure, take
from elastic_events.recorder.page import LaneLedger, PageWriter, Standing
from elastic_events.recorder.reader import RecorderReader
from elastic_events.recorder.request import Request, drop, read_requests, submit
from elastic_events.recorder.tell import tell
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


class RunBus(EventBus):
    """A bus that says what it has to say to a person to its writers."""

    def __init__(self, say: Callable[[str], object], **options: Any) -> None:
        self._say = say
        super().__init__(**options)

    def report(self, what: str, error: BaseException) -> None:
        """Say once what the bus cannot raise to anybody."""
        self._say(f"{what}: {type(error).__name__}: {error}")


class Run:
    """The lanes of one run: a bus whose records all come from recorder files."""

    def __init__(self, run_id: str, directory: Path, say: Callable[[str], object]) -> None:
        self.run_id = run_id
        self.lanes: dict[int, Lane] = {}
        self.requests: dict[int, Request] = {}
        self.ledgers: tuple[LaneLedger, ...] = ()  #: as they were when the bus was closed
        self._spools = directory / SPOOL
        secure(self._spools)
        context = msgspec.structs.replace(read_context({}), run_id=run_id or "none", role="collector")
        self.bus = RunBus(say, context=context, interval=IDLE, deadline=LAST_WORDS, recorder=False)
        self.closing = False
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
        spool = self._spools / f"{request.key:016x}"
        lane = self.bus.subscribe(sink, name=request.url.partition(":")[0], retry=FOREVER, spool=spool)
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
        known: requests of an earlier collector of this process, by key.
        stay: go on when no writer lives, until `stop`; for the command.
    """

    def __init__(
        self, directory: Path, lock: int, known: Mapping[int, Request] | None = None, *, stay: bool = False
    ) -> None:
        self.directory = directory
        self.known = dict(known or {})
        self.undelivered = 0
        self._stay = stay
        self._patience_from = time.monotonic()  # when the last writer was seen, or somebody asked for the end
        self._stopped = False
        self._complaints: set[str] = set()
        self._runs: dict[str, Run] = {}
        self._past: deque[LaneLedger] = deque(maxlen=32)  # of runs that are over
        self.collector = Collector(directory, self._outlet, self._tell)
        self.collector.open(lock)
        self._kicks = Kicks(directory)
        self._kicked = True
        self._page = PageWriter(directory)
        self._woken = anyio.Event()

    async def run(self) -> None:
        """Collect until nothing is left to do; close what was opened and remove what was made."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._hear)
            await self._work(tasks)
            async with anyio.create_task_group() as closing:
                for run in self._runs.values():
                    closing.start_soon(run.close, LAST_WORDS if run.settled else self._patience)
            tasks.cancel_scope.cancel()
        self._end()

    def stop(self) -> None:
        """End when what is there is delivered, within the seconds for last words. Only in the loop."""
        self._stopped, self._patience_from = True, time.monotonic()
        self._woken.set()

    # --- the loop ---

    async def _work(self, tasks: TaskGroup) -> None:
        scanned, looked = 0.0, time.monotonic()
        while True:
            now = time.monotonic()
            kicked, self._kicked = self._kicked, False
            if kicked or now - scanned >= SCAN:
                self._woken = anyio.Event()
                await self._open_requests(tasks)
                self.collector.scan()
                self._finish_runs(tasks)
                scanned = now
            filled = self.collector.sweep()
            if self._done():
                return
            pause, looked = _pause(filled, now - looked), now
            with anyio.move_on_after(pause):
                await self._woken.wait()
            self._woken = anyio.Event()
            self._note()  # before the files say so: who waits for that reads the ledgers then
            self.collector.commit()

    async def _hear(self) -> None:
        while True:
            await anyio.wait_readable(self._kicks.descriptor)
            self._kicks.clear()
            self._kicked = True
            self._woken.set()

    async def _follow(self, lane: Lane) -> None:
        """Wake the loop when a lane has delivered: somebody may wait in a flush for the file to say so."""
        while True:
            await lane.progress.wait()
            self._woken.set()

    def _done(self) -> bool:
        if self.collector.live and not self._stopped:
            self._patience_from = time.monotonic()
            return False
        if self._stay and not self._stopped:
            return False
        files = 0 if self.collector.live else self.collector.files
        waiting = files or not all(run.settled for run in self._runs.values())
        return not waiting or self._patience <= 0

    @property
    def _patience(self) -> float:
        """The seconds that are left for sinks that are away."""
        patience = max((request.patience for request in self.known.values()), default=LAST_WORDS)
        return max((LAST_WORDS if self._stopped else patience) - (time.monotonic() - self._patience_from), 0.0)

    # --- requests and runs ---

    async def _open_requests(self, tasks: TaskGroup) -> None:
        fresh, wrong = read_requests(self.directory, self.known)
        for sentence in wrong:
            self._complain(sentence)
        self.known.update(fresh)
        for key, request in list(self.known.items()):
            run = self._runs.get(request.run_id)
            if (run is None or (key not in run.lanes and not run.closing)) and self._wanted(request):
                await self._open(tasks, request)

    def _wanted(self, request: Request) -> bool:
        """Whether to serve a request: it is there; or it went with its run, and another process of the run came then."""
        if request.run_id in self.collector.live:
            with contextlib.suppress(OSError):
                submit(self.directory, request)
        return self._is_asked(request.key)

    def _is_asked(self, key: int) -> bool:
        return (self.directory / REQUESTS / f"{key:016x}.json").exists()

    async def _open(self, tasks: TaskGroup, request: Request) -> None:
        run = self._runs.get(request.run_id)
        if run is None:
            run = self._runs[request.run_id] = Run(request.run_id, self.directory, self._complain)
            await tasks.start(run.serve)
        try:
            tasks.start_soon(self._follow, run.add(request))
        except (ElasticEventsError, OSError) as error:
            self._complain(f"{request.url.partition(':')[0]}: {error}")  # the next scan tries again

    def _finish_runs(self, tasks: TaskGroup) -> None:
        """Close the runs whose processes have all ended and whose records are all delivered; the last ones at the end."""
        busy = self.collector.runs
        over = [run for name, run in self._runs.items() if name and name not in busy and run.settled]
        if len(over) < len(self._runs):
            for run in over:
                if not run.closing:
                    run.closing = True
                    tasks.start_soon(self._finish, run)

    async def _finish(self, run: Run) -> None:
        await run.close(LAST_WORDS)
        self._past.extend(run.standing())
        del self._runs[run.run_id]
        for key in run.requests:
            drop(self.directory, key)

    def _outlet(self, reader: RecorderReader) -> Outlet | None:
        run_id, keys = reader.header.context.run_id, reader.requests
        if any(key not in self.known and self._is_asked(key) for key in keys):
            self._kicked = True  # asked for since our last look at the requests: that sink is to have all of it, too
            return None
        runs = [run for name in dict.fromkeys((run_id, "")) if (run := self._runs.get(name)) and not run.closing]
        lanes = [lane for run in runs for lane in run.outlet(keys)]
        return (lanes, runs[0].bus.record) if lanes else None

    def _tell(self, event: Any) -> None:
        for run in self._runs.values():
            run.bus.record(event)

    # --- what it says ---

    def _note(self, *, ended: bool = False) -> None:
        lanes = (*self._past, *(ledger for run in self._runs.values() for ledger in run.standing()))
        self._page.write(Standing(os.getpid(), time.time_ns(), lanes, ended))

    def _complain(self, sentence: str) -> None:
        if sentence not in self._complaints:
            self._complaints.add(sentence)
            with contextlib.suppress(OSError):
                os.write(2, f"elastic_events: {sentence}\n".encode(errors="backslashreplace"))
            tell(sentence, self.collector.pids)

    # --- the end ---

    def _end(self) -> None:
        self.collector.commit()
        self.collector.scan()
        self.undelivered = sum(lane.stats().pending for run in self._runs.values() for lane in run.lanes.values())
        self._note(ended=True)
        private = any(request.private for request in self.known.values())
        if not self.collector.files and not self.undelivered:
            for key in self.known:
                drop(self.directory, key)
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


def collect_to_the_end(directory: Path, lock: int) -> None:
    """Collect `directory`; who came while the last collector ended found its lock held, and is collected by the next."""
    known: dict[int, Request] = {}
    held: int | None = lock
    while held is not None:
        daemon = Daemon(directory, held, known)
        anyio.run(daemon.run)
        known, held = daemon.known, None
        if any(is_locked(path) for path in rings(directory)):
            held = take(directory)


def main(directory: str, lock: int) -> None:
    """Be the collector of `directory`, whose lock is the descriptor `lock`. Called in a process of its own."""
    os.umask(0o077)
    os.nice(10)
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    collect_to_the_end(Path(directory), lock)
    os._exit(0)  # nothing is left to do, and the program that waits for the lock waits for the interpreter's end
