"""The plug-in's own bus: where a job's records go when nobody wrote a line of code for it.

| variable | meaning |
|---|---|
| `ELASTIC_EVENTS_SINKS` | URLs, separated by commas; by default `sqlite:///elastic-events-RUN.db` in the working directory, with the host's name where a job has several nodes, since SQLite and network file systems do not agree |
| `ELASTIC_EVENTS_DIR` | directory of the flight recorder; by default one for this agent under the system's temporary directory. The workers inherit it, so that what they record themselves joins |
| `ELASTIC_EVENTS_RUN_ID` | the run; by default torchrun's `--rdzv-id`, and where there is none, time and pid |
| `ELASTIC_EVENTS_TICKS` | `all` keeps every metric of the agent's monitor; by default they are thinned (`Ticks`) |
| `ELASTIC_EVENTS_DEADLINE` | seconds that delivering what is left may hold up the agent's exit, 1 by default; what then remains is in the flight recorder |
"""  # noqa: E501 - a table

import json
import os
import re
import shutil
import socket
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from elastic_events.api import Event
from elastic_events.bus.bus import EventBus
from elastic_events.recording import record
from elastic_events.sinks.urls import parse_sinks
from elastic_events.torchrun.install import Installation
from elastic_events.torchrun.shield import report, shielded
from elastic_events.torchrun.ticks import Ticks

__all__ = ("begin", "record_in_worker")

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
    bus.open()
    # Subscribed when it is open: a sink that hangs in opening must not hold up the job.
    for sink in parse_sinks(urls):
        bus.subscribe(sink, where=None if environ.get("ELASTIC_EVENTS_TICKS") == "all" else Ticks())
    if directory is not None:
        _collect(bus, directory)
    Installation(bus).install()


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
        return max(float(text or 1.0), 0.0)
    except ValueError as error:
        report("ELASTIC_EVENTS_DEADLINE", error)
        return 1.0


def _recorder_directory(run: str) -> Path | None:
    """Make this agent's directory of flight recorders, name it to the workers, and return it."""
    if find_spec("elastic_events.recorder.collect") is None:
        return None
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


def _collect(bus: EventBus, directory: Path) -> None:
    """Deliver what the workers record, and what agents of this run left behind that are dead."""
    from elastic_events.recorder import collect

    bus.add_source(collect, directory, bus)
    if directory.name != str(os.getpid()):
        return
    for other in directory.parent.iterdir():
        if other != directory and other.name.isdigit() and not Path("/proc", other.name).exists():
            bus.add_source(_adopt, collect, other, bus)


async def _adopt(collect: Any, directory: Path, bus: EventBus) -> None:
    await collect(directory, bus)
    shutil.rmtree(directory, ignore_errors=True)
