"""The plug-in's own bus: where a job's records go when nobody wrote a line of code for it.

| variable | meaning |
|---|---|
| `ELASTIC_EVENTS_SINKS` | URLs, separated by commas; by default `sqlite:///elastic-events-RUN.db` in the working directory, with the host's name where a job has several nodes, since SQLite and network file systems do not agree |
| `ELASTIC_EVENTS_DIR` | directory of the flight recorder; by default one for this agent under the system's temporary directory. The workers inherit it, so that what they record themselves joins |
| `ELASTIC_EVENTS_RUN_ID` | the run; by default torchrun's `--rdzv-id`, and where there is none, time and pid |
| `ELASTIC_EVENTS_TICKS` | `all` keeps every metric of the agent's monitor; by default they are thinned (`Ticks`) |
| `ELASTIC_EVENTS_DEADLINE` | seconds that delivering what is left may hold up the agent's exit, 0.25 by default; what then remains is in the flight recorder |
"""  # noqa: E501 - a table

import atexit
import itertools
import json
import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import quote

import anyio

from elastic_events.api import Event
from elastic_events.bus.bus import EventBus
from elastic_events.bus.errors import ConfigError, PermanentError
from elastic_events.bus.handler import Sink
from elastic_events.bus.record import Record
from elastic_events.recorder import collect
from elastic_events.recording import record
from elastic_events.sinks.urls import open_url, parse_sinks
from elastic_events.torchrun.install import Installation
from elastic_events.torchrun.shield import report, shielded, tell
from elastic_events.torchrun.ticks import Ticks

__all__ = ("begin", "record_in_worker")

#: Seconds. A sink that keeps up is done in a fraction; for one that does not, a job's exit and its restart do not wait.
DEADLINE = 0.25

#: Seconds from the agent's beginning to that of the drain, at most.
LATEST = 0.5

_begun: list[int] = []  # pids


def begin(run_id: str | None, max_nodes: int | None) -> None:
    """Open the bus of this agent and route torch's records to it. The second call in a process does nothing."""
    if os.getpid() in _begun:
        return
    _begun.append(os.getpid())
    environ = os.environ
    run = environ.setdefault("ELASTIC_EVENTS_RUN_ID", _run(run_id))
    urls = environ.get("ELASTIC_EVENTS_SINKS", "").strip() or default_sink(run, max_nodes)
    directory = _recorder_directory(run)
    bus = EventBus(recorder=directory, deadline=_deadline(environ.get("ELASTIC_EVENTS_DEADLINE")))
    for url in parse_sinks(urls):
        ticks = None if environ.get("ELASTIC_EVENTS_TICKS") == "all" else Ticks()
        bus.subscribe(_Late(open_url(url)), name=url.partition(":")[0], where=ticks)
    launch = _Launch(bus)
    installation = Installation(bus, launch)
    atexit.register(_tidy, bus, directory, launch)  # before the bus's own, so that it runs after it
    if directory is not None:
        _collect(bus, directory, installation.exit_codes.get)
    installation.install()


class _Launch:
    """Starts the drain once, when the workers have been started or `LATEST` seconds have passed; until then the rings hold.

    The drain's first act is to import an event loop, a tenth of a second that the agent would wait for (the GIL) if it came
    between its own steps. When the workers run, the agent sleeps.
    """

    def __init__(self, bus: EventBus) -> None:
        self.bus = bus
        self._turns = itertools.count()
        self.timer = threading.Timer(LATEST, self)
        self.timer.daemon = True
        self.timer.start()

    def __call__(self) -> None:
        """Start the drain; the second call does nothing. Any thread."""
        if next(self._turns) == 0:
            self.bus.launch()


class _Late:
    """A sink that opens with its first records: neither one that hangs nor one that fails may hold up a job's start."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self._tried = self._open = False

    async def open(self) -> None:
        """Leave it to the first write."""

    async def write(self, records: Sequence[Record]) -> None:
        """Open if need be, and deliver."""
        if not self._open:
            self._tried = True
            try:
                await self.sink.open()
            except ConfigError as error:  # the user must act; the next batch tries again
                report(f"sink {type(self.sink).__name__}", error)
                raise PermanentError(str(error), rejected=list(records)) from error
            self._open = True
        await self.sink.write(records)

    async def aclose(self) -> None:
        """Close what was opened."""
        if self._tried:
            await self.sink.aclose()


@shielded
def record_in_worker(text: str) -> None:
    """Record one event that torch serialized, in a worker: its recorder has it, and the agent collects it."""
    fields = json.loads(text)
    record(Event(fields["name"], fields["source"], fields.get("timestamp") or 0, fields.get("metadata") or {}))


def default_sink(run: str, max_nodes: int | None) -> str:
    """Return the URL of the database that a run is recorded in when no sink is named."""
    host = "" if max_nodes is None or max_nodes <= 1 else f"-{socket.gethostname()}"
    return f"sqlite:///{quote(f'elastic-events-{_plain(run)}{host}.db')}"


def _run(run_id: str | None) -> str:
    # "none" is torchrun's default: without this, all runs in one directory would be one run.
    return run_id if run_id and run_id != "none" else f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)[:100]


def _deadline(text: str | None) -> float:
    try:
        return max(float(text or DEADLINE), 0.0)
    except ValueError as error:
        report("ELASTIC_EVENTS_DEADLINE", error)
        return DEADLINE


def _recorder_directory(run: str) -> Path | None:
    """Make this agent's directory of flight recorders, name it to the workers, and return it."""
    given = os.environ.get("ELASTIC_EVENTS_DIR")
    try:
        if given:
            directory = Path(given)
        else:
            home = Path(tempfile.gettempdir()) / f"elastic-events-{os.getuid()}"
            home.mkdir(mode=0o700, exist_ok=True)
            if home.stat().st_uid != os.getuid():
                raise PermissionError(f"{home} belongs to somebody else")
            directory = home / _plain(run) / str(os.getpid())
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        report("no flight recorder", error)
        return None
    os.environ["ELASTIC_EVENTS_DIR"] = str(directory)
    return directory


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


def _tidy(bus: EventBus, directory: Path | None, launch: _Launch) -> None:
    """At exit, when the bus is closed: remove this agent's own recorder, unless something is left in it."""
    launch.timer.cancel()
    result, stats = bus.close(), bus.stats()
    left = stats.accepted if stats.state == "new" else max(result.undelivered.values(), default=0)
    if left:
        place = f"stay in {directory}; elastic-events recover delivers them" if stats.recorder else "are lost"
        tell(f"{left} records are undelivered and {place}")
        return
    if stats.recorder:
        Path(stats.recorder).unlink(missing_ok=True)
    if directory is not None and directory.name == str(os.getpid()):
        for other in [*_dead(directory), directory]:
            _remove(other)


def _remove(directory: Path) -> None:
    if any(directory.glob("*.ring")):
        return  # of a worker that is still dying, or not delivered yet: the next start will see to it
    with suppress(OSError):
        (directory / ".collector").unlink(missing_ok=True)
        directory.rmdir()
        directory.parent.rmdir()  # the run's, when this was the last agent
