"""Real torchrun jobs, and their story as the database tells it."""

import importlib.util
import json
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from elastic_events.cli.run import torch_looks_for_plugins

HERE = Path(__file__).parent
WORKER = str(HERE / "worker.py")

#: How torchrun is started, and asked to record. A torch that looks for no plug-in has no flag either (before 2.8).
LAUNCHER = ("-m", "torch.distributed.run" if torch_looks_for_plugins() else "elastic_events.torchrun")
ASKED = ("--event-log-handler=elastic",) if torch_looks_for_plugins() else ()

looks_for_plugins = pytest.mark.skipif(not torch_looks_for_plugins(), reason="this torch looks for no plug-ins")

#: How every story begins.
START = ["job.started", "attempt.started", "worker.started", "worker.started"]

#: Seconds after which a job hangs, on a machine that is busy with other work.
TIMEOUT = 240

#: With ELASTIC_TORCH=1 a missing torch is a failure: where CI says that it tests against torch, it must.
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None and os.environ.get("ELASTIC_TORCH") != "1", reason="needs torch"
)


class Told(NamedTuple):
    """One event of the database."""

    name: str
    time_ns: int
    source: str
    metadata: dict[str, Any]
    rank: int | None


class Job(NamedTuple):
    """A job that has ended."""

    code: int
    output: str
    folder: Path

    @property
    def database(self) -> Path:
        """The one database in the folder."""
        (path,) = self.folder.glob("*.db")
        return path

    def rows(self, query: str) -> list[Any]:
        """Ask the database."""
        connection = sqlite3.connect(self.database)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()

    def events(self, pattern: str = "*") -> list[Told]:
        """The events whose name matches, by time."""
        rows = self.rows(
            "SELECT e.name, e.time_ns, e.source, e.metadata, c.rank FROM events e JOIN contexts c USING (context) "
            f"WHERE e.name GLOB '{pattern}' ORDER BY e.time_ns, e.seq"
        )
        return [Told(name, at, source, json.loads(metadata), rank) for name, at, source, metadata, rank in rows]

    def has(self, name: str) -> bool:
        """Whether such an event has arrived; the database may still be made."""
        try:
            return bool(self.events(name))
        except (ValueError, sqlite3.OperationalError):
            return False

    def story(self) -> list[str]:
        """The names of the facts, without torch's own records and the rendezvous."""
        events = [event for event in self.events() if event.source == "AGENT"]
        return [event.name for event in events if not event.name.startswith(("torchelastic.", "rendezvous."))]

    def one(self, name: str) -> dict[str, Any]:
        """The metadata of the only event of that name."""
        (event,) = self.events(name)
        return event.metadata


def environment(**more: str) -> dict[str, str]:
    """The environment of a job: nothing of ours from outside."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ELASTIC_EVENTS_", "PET_"))}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **more}


def arguments(mode: str, *more: str, folder: Path, nodes: str = "1", processes: int = 2) -> list[str]:
    """The arguments of torchrun."""
    return [
        *(f"--nnodes={nodes}", f"--nproc-per-node={processes}", "--rdzv-backend=c10d", "--rdzv-id=job"),
        *("--monitor-interval=0.1", *(("--rdzv-endpoint=localhost:0",) if nodes == "1" else ()), *more),
        *(WORKER, mode, str(folder)),
    ]


def finish(command: Sequence[str], folder: Path, env: Mapping[str, str]) -> Job:
    """Run a job to its end."""
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    return Job(done.returncode, done.stdout + done.stderr, folder)


def run(
    folder: Path,
    mode: str,
    *more: str,
    flag: bool = True,
    launcher: tuple[str, ...] = LAUNCHER,
    **env: str,
) -> Job:
    """Run a job of two workers to its end."""
    asked = ASKED if flag else ()
    command = [sys.executable, *launcher, *arguments(mode, *asked, *more, folder=folder)]
    return finish(command, folder, environment(TMPDIR=str(folder), **env))


@contextmanager
def running(folder: Path, mode: str, *more: str, nodes: str = "1", processes: int = 2, **env: str) -> Iterator[Any]:
    """Start a job; kill it where the block leaves it running."""
    process = subprocess.Popen(
        [
            *(sys.executable, *LAUNCHER),
            *arguments(mode, *ASKED, *more, folder=folder, nodes=nodes, processes=processes),
        ],
        cwd=folder,
        env=environment(TMPDIR=str(folder), **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def ready(process: Any, count: int) -> list[int]:
    """Wait until `count` workers have said so; return their pids."""
    pids: list[int] = []
    while len(pids) < count:
        line = process.stdout.readline()
        assert line, "the job ended before its workers were ready"
        if line.startswith("ready"):
            pids.append(int(line.split()[1]))
    return pids


def directories(folder: Path) -> list[Path]:
    """The directories of recorders that jobs in `folder` have left."""
    return [path for path in folder.glob("elastic-events-*/*") if path.is_dir()]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
