"""The collector process: drains the recorders of one directory into the sinks that were asked for there.

One for a directory of a host, however many programs ask. It follows its writers and ends by itself: when all of them have
ended and all is delivered, or when its patience after the last one is over. What is left then stays in the directory, where
the next start, or `elastic-events collect DIR`, goes on. It is told what to do by files only (`request.py`), is woken by a
byte in a FIFO, and says how it stands on a page (`page.py`).
"""

import contextlib
import fcntl
import os
import signal
import time
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskGroup

from elastic_events.bus.lane import Lane
from elastic_events.recorder.collector import Collector, Outlet
from elastic_events.recorder.directory import REQUESTS, Kicks, holds, let_go, remove, rings, take
from elastic_events.recorder.page import LaneLedger, PageWriter, Standing
from elastic_events.recorder.processors import Aside
from elastic_events.recorder.reader import RecorderReader
from elastic_events.recorder.request import Request, drop, read_requests, submit
from elastic_events.recorder.served import IDLE, LAST_WORDS, Run
from elastic_events.recorder.stderrs import write_line
from elastic_events.sinks.console import escape
from elastic_events.sinks.options import without_login

__all__ = ("Daemon", "main")

#: Seconds between two looks, at least, unless somebody kicks or a ring was found full.
BUSY = 0.01

#: Seconds that sinks have to write the rest before all are opened anew; what is left is read again.
BEGIN_AGAIN = 0.5

#: Things of which each is said once.
COMPLAINTS = 256

#: Requests that are kept of runs that are over, for processes that come late and join theirs by its key alone. Of one that
#: comes later still the ring stays in the directory, for `elastic-events collect`.
RETIRED = 1024

#: Seconds from one scan for new files and dead processes to the next.
SCAN = 0.25


class Daemon:
    """The collector of one directory, from its lock to its end.

    Args:
        directory: to collect.
        lock: descriptor of the directory's lock.
        known: requests of an earlier collector of this process, by key.
        stay: go on when no writer lives, until `stop`; for the command.
        aside: keeps this process off the processors of the writers.
    """

    def __init__(
        self,
        directory: Path,
        lock: int,
        known: Mapping[int, Request] | None = None,
        *,
        stay: bool = False,
        aside: Aside | None = None,
    ) -> None:
        self.directory = directory
        self.known: dict[int, Request] = dict(known or {})
        self.undelivered: int = 0
        self._stay = stay
        #: The last sign of a writer or a delivery, or when somebody asked for the end.
        self._patience_from = time.monotonic()
        self._stopped = False
        self.begins_again: bool = False  #: what a sink was opened with is out of date
        self._met: set[str] = set()  # files that were there at the last scan
        self._seen: dict[str, int] = {}
        self._complaints: set[str] = set()
        self._runs: dict[str, Run] = {}
        self._retired: dict[int, None] = {}  # requests of runs that are over, the oldest first
        self._past: deque[LaneLedger] = deque(maxlen=32)  # of runs that are over
        self.collector: Collector = Collector(directory, self._outlet, self._record)
        self._lock = lock
        self.collector.open(lock)
        self._kicks: Kicks | None = None
        self._page: PageWriter | None = None
        with contextlib.suppress(OSError):  # a full disk: it looks less often then
            self._kicks = Kicks(directory)
        with contextlib.suppress(OSError):  # likewise: it says nothing
            self._page = PageWriter(directory)
        self._aside = aside
        self._kicked = True
        self._woken = anyio.Event()

    @property
    def has_missed(self) -> bool:
        """Whether a process came since the last scan, dead by now perhaps; what was given up is for the next start."""
        return any(path.name not in self._met for path in rings(self.directory))

    async def run(self) -> None:
        """Collect until nothing is left to do; close what was opened and remove what was made."""
        async with anyio.create_task_group() as tasks:
            if self._kicks is not None:
                tasks.start_soon(self._hear, self._kicks)
            await self._work(tasks)
            async with anyio.create_task_group() as closing:
                for run in self._runs.values():
                    seconds = BEGIN_AGAIN if self.begins_again else LAST_WORDS if run.settled else self._patience
                    closing.start_soon(run.close, seconds)
            tasks.cancel_scope.cancel()
        self._end()

    def stop(self) -> None:
        """End when what is there is delivered, within the seconds for last words. Only in the loop."""
        self._stopped, self._patience_from = True, time.monotonic()
        self._woken.set()

    # --- the loop ---

    async def _work(self, tasks: TaskGroup) -> None:
        scanned, looked, is_known = 0.0, time.monotonic(), False
        while True:
            now = time.monotonic()
            # Stopped, with its machine perhaps, it could try no sink: that is no time of patience.
            self._patience_from += max(now - looked - IDLE, 0.0)
            kicked, self._kicked = self._kicked, False
            if kicked or now - scanned >= SCAN:
                self._woken = anyio.Event()
                is_known = await self._scan(tasks)
                scanned = now
            filled = self.collector.sweep()
            if self.begins_again or ((is_known or self._patience <= 0) and self._done()):
                return
            pause, looked = _pause(filled, now - looked), now
            with anyio.move_on_after(pause):
                await self._woken.wait()
            self._woken = anyio.Event()
            self._note()  # before the files say so: who waits for that reads the ledgers then
            self.collector.commit()

    async def _scan(self, tasks: TaskGroup) -> bool:
        """Look for files and requests; return whether that could be done."""
        try:
            self._met = {path.name for path in rings(self.directory)}
            self.collector.scan()
            await self._open_requests(tasks)  # after the scan: a program writes its requests before its ring
        except OSError as error:  # no descriptor left, say: what cannot be seen is not gone
            self.collector.judge()
            self._complain("scan", f"the collector cannot look at {self.directory}: {error.strerror}")
            return False
        self._finish_runs(tasks)
        if self._aside is not None:
            self._aside.step(self.collector.pids)
        return True

    async def _hear(self, kicks: Kicks) -> None:
        while True:
            await anyio.wait_readable(kicks.descriptor)
            kicks.clear()
            self._kicked = True
            self._woken.set()

    async def _follow(self, lane: Lane) -> None:
        """Wake the loop when a lane has delivered: somebody may wait in a flush for the file to say so."""
        while True:
            before = lane.ledger.delivered
            await lane.progress.wait()
            if lane.ledger.delivered > before and not self._stopped:
                self._patience_from = time.monotonic()  # who delivers is not given up
            self._woken.set()

    def _done(self) -> bool:
        if self.collector.live and not self._stopped:
            self._patience_from = time.monotonic()
            return False
        if self._stay and not self._stopped:
            return False
        waiting = any(map(self._is_wanted, self.collector.files)) or any(not run.over for run in self._runs.values())
        return not waiting or self._patience <= 0

    def _is_wanted(self, reader: RecorderReader) -> bool:
        """Whether somebody asked for the records of a file; a ring that nobody did stays where it is."""
        run_id, keys = reader.header.context.run_id, reader.requests
        return any(key in keys or (one.everyone and one.run_id in ("", run_id)) for key, one in self.known.items())

    @property
    def _patience(self) -> float:
        """The seconds that are left for sinks that are away."""
        patience = max((request.patience for request in self.known.values()), default=LAST_WORDS)
        return max((LAST_WORDS if self._stopped else patience) - (time.monotonic() - self._patience_from), 0.0)

    # --- requests and runs ---

    async def _open_requests(self, tasks: TaskGroup) -> None:
        fresh, wrong = read_requests(self.directory, self._seen)
        for sentence in wrong:
            self._complain(sentence, sentence)
        self.known.update(fresh)
        self.begins_again = any(map(self._would_help, self.known.values()))
        for key, request in list(self.known.items()):
            run = self._runs.get(request.run_id)
            if (run is None or (key not in run.lanes and not run.closing)) and self._wanted(request):
                await self._open(tasks, request)

    def _would_help(self, request: Request) -> bool:
        """Whether a sink that keeps failing has a new environment by this request: another password, perhaps."""
        run = self._runs.get(request.run_id)
        lane = run.lanes.get(request.key) if run is not None else None
        if self._stay or run is None or lane is None or run.requests[request.key].environ == request.environ:
            return False
        return lane.refusal is not None or lane.circuit == "open"

    def _wanted(self, request: Request) -> bool:
        """Whether to serve a request: it is there; or it went with its run, and another process came then."""
        key = request.key
        for reader in self.collector.files:
            every = request.everyone and request.run_id in ("", reader.header.context.run_id)
            if key in reader.requests or every:
                with contextlib.suppress(OSError):
                    submit(self.directory, request)
                return True
        return self._is_there(key)

    async def _open(self, tasks: TaskGroup, request: Request) -> None:
        run = self._runs.get(request.run_id)
        if run is None:
            run = self._runs[request.run_id] = Run(request.run_id, self.directory, self._complain)
            await tasks.start(run.serve)
        self._retired.pop(request.key, None)
        tasks.start_soon(self._follow, run.add(request))

    def _finish_runs(self, tasks: TaskGroup) -> None:
        """Close the runs whose processes have all ended and whose records are all delivered."""
        for run in self._runs.values():
            if self._stay and not self._stopped and any(request.everyone for request in run.requests.values()):
                continue  # of who asked for what is still to come
            used = any(run.outlet(reader.header.context.run_id, reader.requests) for reader in self.collector.files)
            run.used = run.used or used
            late = time.monotonic() - run.since > LAST_WORDS  # who asked died before it made its ring
            if not run.closing and not used and run.settled and (run.used or late):
                run.closing = True
                tasks.start_soon(self._finish, run)

    async def _finish(self, run: Run) -> None:
        await run.close(LAST_WORDS)
        self._past.extend(run.standing())
        del self._runs[run.run_id]
        for key in run.requests:
            drop(self.directory, key)
        self._retire(run.requests)
        self._kicked = True
        self._woken.set()

    def _retire(self, keys: Iterable[int]) -> None:
        """Note that these requests are of a run that is over, and forget the oldest of such."""
        for key in keys:
            self._retired.pop(key, None)
            self._retired[key] = None
        while len(self._retired) > RETIRED:
            oldest = next(iter(self._retired))
            del self._retired[oldest]
            self.known.pop(oldest, None)

    def _outlet(self, reader: RecorderReader) -> Outlet | None:
        """Return where the records of a file go; nowhere yet, while a sink that they are for is not there."""
        run_id, keys = reader.header.context.run_id, reader.requests
        served: set[int] = set()
        lanes: list[Lane] = []
        record = None
        for run in self._runs.values():
            found = run.outlet(run_id, keys)
            if found and run.closing:
                return None
            served.update(run.lanes)
            lanes += found
            record = run.bus.record if found else record
        everyones = {key for key, one in self.known.items() if one.everyone and one.run_id in ("", run_id)}
        if any(key in self.known or self._is_there(key) for key in (keys | everyones) - served):
            self._kicked = True
            return None
        return (lanes, record) if record is not None else None

    def _is_there(self, key: int) -> bool:
        return (self.directory / REQUESTS / f"{key:016x}.json").exists()

    def _record(self, event: Any) -> None:
        for run in self._runs.values():
            run.bus.record(event)

    # --- what it says ---

    def _note(self, *, ended: bool = False) -> None:
        if self._page is not None:
            # Those of now first: where the page is full, the last ones are left out.
            lanes = (*(ledger for run in self._runs.values() for ledger in run.standing()), *self._past)
            self._page.write(Standing(os.getpid(), time.time_ns(), lanes, ended=ended, stays=self._stay))

    def _complain(self, what: str, sentence: str) -> None:
        """Say a sentence in the log and to the programs that are served; about the same `what` once, about "" each time."""
        if not what or what not in self._complaints:
            if len(self._complaints) >= COMPLAINTS:  # most of them are of runs that are over
                self._complaints.clear()
            self._complaints.add(what)
            safe = escape(without_login(sentence))  # it may repeat what a program named its run, or typed
            with contextlib.suppress(OSError):
                os.write(2, f"elastic_events: {safe}\n".encode(errors="backslashreplace"))
            write_line(safe, self.collector.pids)

    # --- the end ---

    def _end(self) -> None:
        self.collector.commit()
        is_known = False
        with contextlib.suppress(OSError):
            self.collector.scan()
            is_known = True
        self.undelivered = sum(sum(run.bus._drain.given_up.values()) for run in self._runs.values())
        self._note(ended=not self.begins_again)
        private = any(request.private for request in self.known.values())
        wanted = any(map(self._is_wanted, self.collector.files)) or self.undelivered
        if is_known and not wanted and holds(self.directory, self._lock):
            for key in self.known:
                drop(self.directory, key)
            remove(self.directory, whole=private)
        if self._kicks is not None:
            self._kicks.close()
        if self._page is not None:
            self._page.close()
        self.collector.close(keep=True)


def _pause(filled: float, seconds: float) -> float:
    """Return how long to wait until the next look, which is to find no more than a quarter of a ring filled."""
    if filled <= 0:
        return IDLE
    return min(max(seconds * 0.25 / filled, BUSY), IDLE) if filled < 1 else 0.0


def collect_to_the_end(directory: Path, lock: int, aside: Aside | None = None) -> None:
    """Collect `directory`; who came while the last collector ended found its lock held, and is collected by the next."""
    known: dict[int, Request] = {}
    held: int | None = lock
    while held is not None:
        daemon = Daemon(directory, held, known, aside=aside)
        anyio.run(daemon.run)
        known = daemon.known
        if not (holds(directory, held) and (daemon.begins_again or daemon.has_missed)):
            let_go(held)
            held = take(directory) if daemon.has_missed else None


def main(directory: str, lock: int, aside: Aside) -> None:
    """Be the collector of `directory`, whose lock is the descriptor `lock`. Called in a process of its own."""
    if not holds(Path(directory), lock):
        return  # not the descriptor that we were to get
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ours already, unless an earlier one of us let it go
    except OSError:
        return
    os.umask(0o077)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    collect_to_the_end(Path(directory), lock, aside)
    os._exit(0)  # nothing is left to do, and the program that waits for the lock waits for the interpreter's end
