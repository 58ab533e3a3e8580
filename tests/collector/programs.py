"""Programs that are drained by a collector process, and what becomes of them."""

import os
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PRELUDE = """
import json, multiprocessing, os, signal, subprocess, sys, threading, time, warnings
import elastic_events
from elastic_events import Event, EventBus, EventSource, record
from elastic_metrics import put_metric

def emit(n, name="m"):
    for i in range(n): put_metric(name, i)
"""


class Place:
    """A folder with a database, where programs run; their recorders are in a temporary directory of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = folder / "run.db"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.started: list[subprocess.Popen[str]] = []

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of a program: nothing of ours, nor of a launcher's, from outside."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ELASTIC_EVENTS_", "RANK"))}
        path = os.pathsep.join(filter(None, sys.path))
        return {**kept, "TMPDIR": str(self.temporary), "PYTHONPATH": path, **more}

    def start(self, body: str, *wrapper: str, **env: str) -> "subprocess.Popen[str]":
        """Start a program."""
        script = self.folder / f"script{len(self.started)}.py"
        script.write_text(PRELUDE + textwrap.dedent(body))
        program = subprocess.Popen(
            [*wrapper, sys.executable, str(script)],
            cwd=self.folder,
            env=self.environment(**env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(program)
        return program

    def run(self, body: str, *wrapper: str, timeout: float = 60, **env: str) -> "subprocess.CompletedProcess[str]":
        """Run a program to its end, and to that of all who hold its output."""
        program = self.start(body, *wrapper, **env)
        out, err = program.communicate(timeout=timeout)
        return subprocess.CompletedProcess(program.args, program.returncode, out, err)

    def ask(self, query: str) -> list[Any]:
        """Ask the database; nothing where it is not there yet."""
        if not self.database.exists():
            return []
        connection = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=20)
        try:
            return connection.execute(query).fetchall()
        except sqlite3.OperationalError:
            return []  # its tables are still being made
        finally:
            connection.close()

    def count(self, name: str = "m") -> int:
        """How many points of a metric have arrived, each counted once."""
        return sum(count for (count,) in self.ask(f"SELECT count(*) FROM metrics WHERE name = '{name}'"))

    def events(self, name: str) -> int:
        """How many events of a name have arrived."""
        return sum(count for (count,) in self.ask(f"SELECT count(*) FROM events WHERE name = '{name}'"))

    @property
    def directories(self) -> list[Path]:
        """The directories of recorders."""
        return [path for path in self.temporary.glob("elastic-events-*/*") if path.is_dir()]

    def collectors(self) -> list[int]:
        """The pids of the collectors of this place, without the shells that look after them."""
        return [pid for pid, program in self._ours() if "sh" not in program]

    def supervisors(self) -> list[int]:
        """The pids of the shells that look after the collectors of this place."""
        return [pid for pid, program in self._ours() if "sh" in program]

    def _ours(self) -> Iterator[tuple[int, str]]:
        for pid, words in processes():
            line = " ".join(words)
            if "recorder.daemon" in line and str(self.folder) in line:
                yield pid, Path(words[0]).name

    def end(self) -> None:
        """Leave nothing running."""
        for program in self.started:
            if program.poll() is None:
                program.kill()
                program.wait()
            for stream in (program.stdin, program.stdout, program.stderr):
                if stream is not None:
                    stream.close()
        for pid in (*self.supervisors(), *self.collectors()):
            os.kill(pid, 9)


def processes() -> Iterator[tuple[int, list[str]]]:
    """Give pid and command line of every process."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                words = Path("/proc", entry, "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if words[0]:
                yield int(entry), words


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until `condition()` holds; return what it returned."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)
    return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A place for programs; whatever happens, none of theirs is left running."""
    made = Place(tmp_path)
    yield made
    made.end()
