"""torchrun jobs of scripts that nobody changed for an observer."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.torchrun.jobs import ASKED, LAUNCHER, TIMEOUT, Job, environment, needs_torch

__all__ = ("HERE", "Job", "launch", "needs_observer", "summary")

HERE = Path(__file__).parent

_POINTS = importlib.metadata.entry_points(group="torch.backends")

#: Torch is there, and finds us: what stands in pyproject.toml is read when the package is installed.
needs_observer = (needs_torch, pytest.mark.skipif("elastic_events" not in _POINTS.names, reason="installed without it"))


def launch(folder: Path, script: Path, *arguments: str, restarts: int = 0, processes: int = 1, **env: str) -> Job:
    """Run `script` under torchrun to its end."""
    options = (f"--nproc-per-node={processes}", f"--max-restarts={restarts}", "--monitor-interval=0.1", "--rdzv-id=job")
    command = [sys.executable, *LAUNCHER, *ASKED, "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", *options]
    done = subprocess.run(
        [*command, str(script), *arguments],
        cwd=folder,
        env=environment(TMPDIR=str(folder), **env),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    return Job(done.returncode, done.stdout + done.stderr, folder)


def summary(job: Job) -> dict[str, Any]:
    """Return what `elastic-events summary --json` says of a job."""
    command = [
        sys.executable,
        "-c",
        "from elastic_events.cli import main; main()",
        "summary",
        "--json",
        str(job.database),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
