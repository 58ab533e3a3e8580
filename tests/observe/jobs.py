"""torchrun jobs of scripts that nobody changed for an observer."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.torchrun.jobs import ASKED, LAUNCHER, TIMEOUT, Job, environment, finish, needs_torch

__all__ = ("HERE", "Job", "command", "launch", "line_of", "needs_observer", "summary")

HERE = Path(__file__).parent

_POINTS = importlib.metadata.entry_points(group="torch.backends")

#: Torch is there, and finds us: what stands in pyproject.toml is read when the package is installed.
needs_observer = (needs_torch, pytest.mark.skipif("elastic_events" not in _POINTS.names, reason="installed without it"))


def command(script: Path, *arguments: str, restarts: int = 0, processes: int = 1) -> list[str]:
    """The command of a job that runs `script`."""
    options = (f"--nproc-per-node={processes}", f"--max-restarts={restarts}", "--monitor-interval=0.1", "--rdzv-id=job")
    torchrun = [sys.executable, *LAUNCHER, *ASKED, "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", *options]
    return [*torchrun, str(script), *arguments]


def launch(folder: Path, script: Path, *arguments: str, restarts: int = 0, processes: int = 1, **env: str) -> Job:
    """Run `script` under torchrun to its end."""
    job = command(script, *arguments, restarts=restarts, processes=processes)
    return finish(job, folder, environment(TMPDIR=str(folder), **env))


def line_of(script: Path, comment: str) -> int:
    """The number of the line of a script that ends with a comment."""
    lines = script.read_text("utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if f"  # {comment}" in line)


def summary(job: Job) -> dict[str, Any]:
    """Return what `elastic-events summary --json` says of a job."""
    asked = [sys.executable, "-m", "elastic_events", "summary", "--json", str(job.database)]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
