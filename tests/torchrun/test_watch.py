"""A job that fails and starts again while somebody watches it."""

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import environment, python
from tests.torchrun.jobs import TIMEOUT, needs_torch, run

pytestmark = [needs_torch, pytest.mark.timeout(2 * TIMEOUT)]


@pytest.mark.parametrize("columns", ["40", "200"])
def test_the_last_picture_is_the_summary(tmp_path: Path, columns: str) -> None:
    """`summary --watch` waits for the job, ends with it, and leaves at the terminal what `summary` says afterwards."""
    terminal, end = os.openpty()
    call = [sys.executable, "-m", "elastic_events", "summary", "--watch", "run.db"]
    env = environment(COLUMNS=columns, TERM="xterm")
    with subprocess.Popen(call, cwd=tmp_path, env=env, stdin=end, stdout=end, stderr=subprocess.PIPE) as watch:
        os.close(end)
        try:
            assert watch.stderr is not None
            assert watch.stderr.readline().startswith(b"waiting: run.db")
            job = run(tmp_path, "killed-once", "--max-restarts=1", ELASTIC_EVENTS_SINKS=f"sqlite:///{tmp_path}/run.db")
            assert job.code == 0, job.output
            shown = b""
            with contextlib.suppress(OSError):  # what Linux says when the other end is closed
                while part := os.read(terminal, 65536):
                    shown += part
            assert (watch.wait(), watch.stderr.read()) == (0, b"")
        finally:
            watch.kill()
            os.close(terminal)
    done = python("-m", "elastic_events", "summary", "run.db", cwd=tmp_path, COLUMNS=columns)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).replace("\r", "")
    assert "2 attempts" in done.stdout
    assert text.rstrip().endswith(done.stdout.rstrip())
