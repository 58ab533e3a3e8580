"""A run of the tests leaves nothing behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.reaper import MARK, watch


def is_there(pid: int) -> bool:
    """Whether a process lives, and is no zombie."""
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_what_a_killed_run_started_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL of the tests ends what they started, in a session of its own or orphaned, and nothing of other runs."""
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(sleeper) as other:  # of this run
        monkeypatch.setenv(MARK, "")
        run = subprocess.Popen(sleeper)
        watch(tmp_path, run.pid, grace=0.0)
        started = [subprocess.Popen(sleeper, start_new_session=True), subprocess.Popen(["sh", "-c", "sleep 600"])]
        run.kill()
        run.wait()
        until = time.monotonic() + 60
        while any(is_there(one.pid) for one in started) and time.monotonic() < until:
            time.sleep(0.05)
        assert not any(is_there(one.pid) for one in started)
        assert is_there(other.pid)
        assert is_there(os.getpid())
        for one in started:
            one.wait()
        other.kill()
