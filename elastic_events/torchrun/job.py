"""The plug-in's own bus: where a job's records go when nobody wrote a line of code for it.

| variable | meaning |
|---|---|
| `ELASTIC_EVENTS_SINKS` | URLs, separated by commas; by default `sqlite:///elastic-events-RUN.db` in the working directory, with the host's name where a job has several nodes, since SQLite and network file systems do not agree |
| `ELASTIC_EVENTS_DIR` | directory of the flight recorder; by default one for this agent under the system's temporary directory. The workers inherit it, so that what they record themselves joins |
| `ELASTIC_EVENTS_RUN_ID` | the run; by default torchrun's `--rdzv-id`, and where there is none, time and pid |
| `ELASTIC_EVENTS_TICKS` | `all` keeps every metric of the agent's monitor; by default they are thinned (`Ticks`) |
| `ELASTIC_EVENTS_DEADLINE` | seconds that delivering what is left may hold up the agent's exit, 5 by default; only a sink that keeps up with the job is waited for, and only while it goes on. What then remains is in the flight recorder |
"""  # noqa: E501 - a table

import itertools
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from urllib.parse import quote

import anyio

from elastic_events.bus.bus import EventBus
from elastic_events.bus.errors import ConfigError, PermanentError
from elastic_events.bus.handler import Sink
from elastic_events.bus.lane import Lane
from elastic_events.bus.record import Record
from elastic_events.recorder.collect import collect
from elastic_events.sinks.urls import open_url, parse_sinks
from elastic_events.torchrun.install import Installation
from elastic_events.torchrun.names import plain
from elastic_events.torchrun.shield import report, tell
from elastic_events.torchrun.ticks import Ticks

__all__ = ("Job",)

#: Seconds that delivering what is left may hold up the agent's exit, while it goes on.
DEADLINE = 5.0

#: Seconds that the write under way at the exit may take, and that it may after one that took longer.
PATIENCE, LITTLE = 0.25, 0.05

#: Records of a write: few, so that a sink which is no quick one can show that it goes on.
SHARE = 128

#: Seconds that its opening may take, and the steps between: a busy machine, or a file's first sync.
STALL = 1.0

#: Seconds from the agent's beginning to that of the drain, at most.
LATEST = 0.5


class Job:
    """The bus of this agent, from its beginning to its end."""

    def __init__(self, installation: Installation, directory: Path | None, run: str, max_nodes: int | None) -> None:
        environ = os.environ
        urls = environ.get("ELASTIC_EVENTS_SINKS", "").strip() or default_sink(run, max_nodes)
        self.directory = directory
        self.deadline = _deadline(environ.get("ELASTIC_EVENTS_DEADLINE"))
        self.bus = EventBus(recorder=self.directory, deadline=self.deadline)
        self._lanes: list[tuple[Lane, _Late]] = []
        for url in parse_sinks(urls):
            ticks = None if environ.get("ELASTIC_EVENTS_TICKS") == "all" else Ticks()
            sink = _Late(open_url(url))
            lane = self.bus.subscribe(sink, name=url.partition(":")[0], where=ticks, batch_size=SHARE)
            self._lanes.append((lane, sink))
        if self.directory is not None:
            _collect(self.bus, self.directory, installation.exit_codes.get)
        with suppress(ImportError):  # a head start: it would take the drain's first tenth of a second
            import_module("anyio._backends._asyncio")
        self._turns = itertools.count()
        self._timer = threading.Timer(LATEST, self.launch)
        self._timer.daemon = True
        self._timer.start()

    def launch(self) -> None:
        """Start the drain; the second call does nothing. Any thread.

        Called when the workers have been started or `LATEST` seconds have passed; until then the rings hold. A drain that
        came between the agent's own steps would hold them up (the GIL). When the workers run, the agent sleeps.
        """
        if next(self._turns) == 0:
            self.bus.closes_at_exit = False  # `end` does it
            self.bus.launch()

    def end(self) -> None:
        """Deliver what is left; remove this agent's own recorder, unless something is left in it.

        A sink that kept up with the job gets all of it, and is waited for while it goes on. One that did not is not
        waited for: the exit would come as much later as it is slow.
        """
        self._timer.cancel()
        self.launch()
        result, stats = self.bus.close(self.deadline, patient=_Patience(self._lanes)), self.bus.stats()
        left = max(result.undelivered.values(), default=0)
        if left:
            place = f"stay in {self.directory}; elastic-events recover delivers them" if stats.recorder else "are lost"
            tell(f"{left} records are undelivered and {place}")
            return
        if stats.recorder:
            Path(stats.recorder).unlink(missing_ok=True)
        if self.directory is not None and self.directory.name == str(os.getpid()):
            for other in [*_dead(self.directory), self.directory]:
                _remove(other)


class _Patience:
    """Says whether the exit goes on waiting: for a sink that keeps up, and within `STALL` of the last progress."""

    def __init__(self, lanes: Sequence[tuple[Lane, "_Late"]]) -> None:
        self._lanes = lanes
        self._seen: list[object] = []
        self._since = 0.0

    def __call__(self) -> bool:
        """Return whether to wait."""
        now = time.monotonic()
        seen: list[object] = [(lane.finished, lane.stats().pending) for lane, _ in self._lanes]
        if seen != self._seen:
            self._seen, self._since = seen, now
        promising = any(not lane.finished and not sink.behind(now) for lane, sink in self._lanes)
        return promising and now - self._since < STALL


class _Late:
    """A sink that opens with its first records: neither one that hangs nor one that fails may hold up a job's start."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self._tried = self._open = False
        self._due = math.inf  # monotonic seconds until which the write under way may take
        self._slow = self._failed = False  # the last write took longer, or failed

    async def open(self) -> None:
        """Leave it to the first write."""

    async def write(self, records: Sequence[Record]) -> None:
        """Open if need be, and deliver."""
        started, failed = time.monotonic(), True
        try:
            if not self._open:
                self._due = time.monotonic() + STALL
                await self._open_now(records)
            started = time.monotonic()
            self._due = started + (LITTLE if self._slow else PATIENCE)
            await self.sink.write(records)
            failed = False
        finally:
            self._slow, self._failed = time.monotonic() - started > PATIENCE, failed
            self._due = math.inf

    def behind(self, now: float) -> bool:
        """Return whether this sink does not keep up. Any thread may ask."""
        return self._failed or now > self._due

    async def _open_now(self, records: Sequence[Record]) -> None:
        self._tried = True
        try:
            await self.sink.open()
        except ConfigError as error:  # the user must act; the next batch tries again
            report(f"sink {type(self.sink).__name__}", error)
            raise PermanentError(str(error), rejected=list(records)) from error
        self._open = True

    async def aclose(self) -> None:
        """Close what was opened."""
        if self._tried:
            await self.sink.aclose()


def default_sink(run: str, max_nodes: int | None) -> str:
    """Return the URL of the database that a run is recorded in when no sink is named."""
    host = "" if max_nodes is None or max_nodes <= 1 else f"-{socket.gethostname()}"
    return f"sqlite:///{quote(f'elastic-events-{plain(run)}{host}.db')}"


def _deadline(text: str | None) -> float:
    try:
        return max(float(text or DEADLINE), 0.0)
    except ValueError as error:
        report("ELASTIC_EVENTS_DEADLINE", error)
        return DEADLINE


def _collect(bus: EventBus, directory: Path, exit_code: Callable[[int], int | None]) -> None:
    """Deliver what the workers record, and what agents of this run that are dead left behind."""
    bus.add_source(partial(collect, directory, bus, exit_code=exit_code))
    if directory.name != str(os.getpid()):
        return  # named by the user: all agents of this host share it
    for other in _dead(directory):
        bus.add_source(_adopt, other, bus)


def _dead(directory: Path) -> list[Path]:
    """Return the directories of agents of this run that are dead."""
    found = directory.parent.iterdir()
    return [other for other in found if other.name.isdigit() and not Path("/proc", other.name).exists()]


async def _adopt(directory: Path, bus: EventBus) -> None:
    """Deliver what is in `directory`, then remove it."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(collect, directory, bus)
        while any(directory.glob("*.ring")):
            await anyio.sleep(0.1)
        tasks.cancel_scope.cancel()
    _remove(directory)


def _remove(directory: Path) -> None:
    if any(directory.glob("*.ring")):
        return  # of a worker that is still dying, or not delivered yet: the next start will see to it
    with suppress(OSError):
        (directory / ".collector").unlink(missing_ok=True)
        directory.rmdir()
        directory.parent.rmdir()  # the run's, when this was the last agent
