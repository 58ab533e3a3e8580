"""The recorder of this agent, from its first record to its exit.

Torch's records go into rings in a file, and the collector process of the run's directory delivers them, with what the
workers record there: no drain, no sink and no connection is in the agent. Where no such process can be had, a thread of
the agent does it (`agent_thread`).

| variable | meaning |
|---|---|
| `ELASTIC_EVENTS_SINKS` | URLs, separated by commas; by default `sqlite:///elastic-events-RUN.db` in the working directory, with the host's name where a job has several nodes, since SQLite and network file systems do not agree |
| `ELASTIC_EVENTS_DIR` | directory of the recorders; by default one of the run under the system's temporary directory. The workers inherit it, so that what they record themselves joins |
| `ELASTIC_EVENTS_RUN_ID` | the run; by default torchrun's `--rdzv-id`, and where there is none, of several nodes Slurm's job and step, else time and pid. A job that a rank of another one starts is a run of its own, `OUTER/ID` |
| `ELASTIC_EVENTS_TICKS` | `all` keeps every metric of the agent's monitor; by default they are thinned (`Ticks`) |
| `ELASTIC_EVENTS_OBSERVE` | what is observed in the workers: `on` by default, `off`, or a list (see `elastic_events.observe`) |
| `ELASTIC_EVENTS_STACKS_AFTER` | seconds without a step after which a worker is asked for its stack, 15 by default (see `stuck`) |
| `ELASTIC_EVENTS_TIMEOUT` | seconds that the agent's exit waits until all is delivered, 5 by default. The collector goes on with the rest |
"""  # noqa: E501 - a table

import atexit
import os
import re
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import msgspec

from elastic_events.bus.context import Context, read_context
from elastic_events.bus.emit import Emitter
from elastic_events.bus.errors import ConfigError
from elastic_events.bus.redact import Redactor
from elastic_events.recorder.link import CollectedByLoop, Link, recorder_directory
from elastic_events.recorder.writer import MappedRing, open_rings
from elastic_events.sinks.urls import open_dead_letters, open_url, parse_sinks
from elastic_events.torchrun.installation import Installation, Recording
from elastic_events.torchrun.shield import report, shielded, tell
from elastic_events.torchrun.ticks import Ticks

__all__ = ("begin", "default_sink", "run_name")

#: Seconds that the agent's exit waits for its sinks.
TIMEOUT = 5.0

_begun: list[int] = []  # pids


class Home(Protocol):
    """Where this agent's records are drained."""

    @property
    def to(self) -> Recording:
        """What records."""

    def follow(self, exit_codes: Mapping[int, int], /) -> None:
        """Start; `exit_codes` will tell what workers ended with, by pid."""

    def close(self, timeout: float, /) -> None:
        """Wait until all is delivered, `timeout` seconds at most, and say what is not."""


def begin(run_id: str | None, max_nodes: int | None) -> None:
    """Record what torch's agent does in this process. The second call in a process does nothing.

    Raises:
        ConfigError: a sink's URL is wrong, or its package is missing.
    """
    if os.getpid() in _begun:
        return
    _begun.append(os.getpid())
    context = agent_context(run_id, several=max_nodes is not None and max_nodes > 1)
    os.environ["ELASTIC_EVENTS_RUN_ID"] = run = context.run_id
    os.environ.setdefault("ELASTIC_EVENTS_OBSERVE", "on")  # the workers inherit it
    named = parse_sinks(os.environ.get("ELASTIC_EVENTS_SINKS", ""))
    urls = named or [default_sink(run, max_nodes)]
    for url in named:  # connects to nothing; what is wrong with it is said here, where somebody reads it
        open_url(url)
    for url in urls:
        open_dead_letters(url)  # likewise; it may be the environment's, of the default sink too
    home = _home(urls, context, named=bool(named))
    installation = Installation(home.to, None if os.environ.get("ELASTIC_EVENTS_TICKS") == "all" else Ticks())
    installation.install()
    # A worker that is a forked function: what torch records there goes where the worker's own records go.
    os.register_at_fork(after_in_child=lambda: installation.redirect(_OfWorker()))
    home.follow(installation.exit_codes)
    if "elastic_events.front" in sys.modules:  # a program that records for itself goes where its agent goes
        import_module("elastic_events.front").front.point()
    _close_at_exit(home, _timeout(os.environ.get("ELASTIC_EVENTS_TIMEOUT")))


def _home(urls: Sequence[str], context: Context, *, named: bool) -> Home:
    """Return where records are drained: in a collector process, in the launcher's own loop, or in a thread."""
    directory = None
    given = os.environ.get("ELASTIC_EVENTS_DIR")
    try:
        directory = Path(given).absolute() if given else recorder_directory(context)
        link = Link(directory, private=not given, everyone=True, source="AGENT")
        return _Collected(link, link.open(context, urls))
    except CollectedByLoop as error:
        assert directory is not None
        if named:
            tell(f"{error}: the sinks of ELASTIC_EVENTS_SINKS are left out")
        return _Rings(open_rings(directory, context, source="AGENT"))
    except (ConfigError, OSError) as error:
        from elastic_events.torchrun.agent_thread import InThread

        tell(f"a thread of the agent delivers this job's records, no process of its own: {error}")
        return InThread(urls, directory)


class _Rings:
    """Rings that somebody else collects: a launcher, in its own event loop."""

    def __init__(self, rings: tuple[MappedRing, MappedRing]) -> None:
        self.rings = rings
        self.to = Emitter(rings[0].pipe, rings[1].pipe, Redactor())

    def follow(self, _exit_codes: Mapping[int, int]) -> None:
        """Whoever collects needs no word of ours."""

    def close(self, _timeout: float) -> None:
        """Nothing to wait for: what is in the rings outlives this process."""
        self.rings[0].close()


class _Collected(_Rings):
    """Rings that the collector process of their directory drains."""

    def __init__(self, link: Link, rings: tuple[MappedRing, MappedRing]) -> None:
        super().__init__(rings)
        self._link = link
        link.join_children()  # the workers

    def close(self, timeout: float) -> None:
        """Wait for the collector, which goes on with what is left; the link says what that is."""
        self._link.close([ring.head for ring in self.rings], timeout)


class _OfWorker:
    """The module functions, as a destination; imported when something is recorded."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module("elastic_events.front"), name)


def _close_at_exit(home: Home, timeout: float) -> None:
    pid = os.getpid()

    @shielded
    def close() -> None:
        if os.getpid() == pid:  # a forked child that ends is no end of the agent
            home.close(timeout)

    atexit.register(close)


def default_sink(run: str, max_nodes: int | None) -> str:
    """Return the URL of the database that a run is recorded in when no sink is named."""
    host = "" if max_nodes is None or max_nodes <= 1 else f"-{socket.gethostname()}"
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", run)[:100]
    return f"sqlite:///{quote(f'elastic-events-{plain}{host}.db')}"


def agent_context(run_id: str | None, *, several: bool) -> Context:
    """Return who this agent is, of which run. One that a rank of another job has started is no node of that, and has no rank."""
    context, outer = read_context(), os.environ.get("ELASTIC_EVENTS_RUN_ID")
    if os.environ.get("TORCHELASTIC_RESTART_COUNT"):
        run = (f"{outer}/" if outer else "") + run_name(run_id, several)
        return Context(run, context.process, context.host, context.pid)
    return msgspec.structs.replace(context, run_id=outer or run_name(run_id, several))


def run_name(run_id: str | None, several: bool = False) -> str:
    """Return the name of a run; "none" is torchrun's default, which would make all runs one.

    Of `several` nodes each needs the same: the batch system's, else it is told that they will be runs of their own.
    """
    if run_id and run_id != "none":
        return run_id
    job = os.environ.get("SLURM_JOB_ID")
    if several and job:
        return f"{job}.{os.environ.get('SLURM_STEP_ID', '0')}"
    run = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    if several:
        tell(f"this node's run is {run}: for one run of all nodes, give each the same --rdzv-id")
    return run


def _timeout(text: str | None) -> float:
    try:
        return max(float(text or TIMEOUT), 0.0)
    except ValueError as error:
        report("ELASTIC_EVENTS_TIMEOUT", error)
        return TIMEOUT
