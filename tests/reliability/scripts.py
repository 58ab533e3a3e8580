"""Run a program that records, in a process of its own, and see what arrived."""

import subprocess
import sys
import textwrap
from pathlib import Path

from tests.programs import environment

PRELUDE = """
import atexit, json, os, signal, sys, threading, time
import elastic_events
from elastic_events import Event, EventBus, EventSource, record
from elastic_metrics import put_metric

from tests.programs import environment

OUT = os.environ["OUT"]

class File:
    name = "file"
    async def open(self): self.fd = os.open(OUT, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    async def write(self, records):
        rows = [[r.kind, r.name, r.fields[0] if r.kind == "metric" else None, r.context.pid, r.id] for r in records]
        os.write(self.fd, b"".join(json.dumps(row).encode() + b"\\n" for row in rows))
    async def aclose(self): os.close(self.fd)

def emit(n, name="m"):
    for i in range(n): put_metric(name, i)

def wait_for(child):
    for _ in range(3000):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid: return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    sys.exit("it did not end")
"""


def run(body: str, tmp_path: Path, *, timeout: float = 30, **env: str) -> "Outcome":
    """Run PRELUDE and `body`; return how it ended and the records that the File sink wrote."""
    script = tmp_path / "script.py"
    script.write_text(PRELUDE + textwrap.dedent(body))
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        env=environment(OUT=str(out), **env),
        capture_output=True,
        timeout=timeout,
        check=False,
        text=True,
    )
    return Outcome(done, out)


class Outcome:
    """How a program ended, and what it delivered."""

    def __init__(self, done: "subprocess.CompletedProcess[str]", out: Path) -> None:
        import json

        self.code = done.returncode
        self.stdout = done.stdout
        self.stderr = done.stderr
        self.rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        self.kinds = [row[0] for row in self.rows]

    def values(self, name: str = "m") -> list[int]:
        """The values of the metric points of that name, as they arrived."""
        return [row[2] for row in self.rows if row[0] == "metric" and row[1] == name]
