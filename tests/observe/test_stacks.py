"""Where a rank hangs."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from elastic_events.observe import stacks
from elastic_events.torchrun import asking
from elastic_events.torchrun.stalls import MOST, Stuck
from tests.observe.jobs import HERE, command, line_of, needs_observer, summary
from tests.torchrun.jobs import TIMEOUT, Job, environment

SCRIPT = HERE / "hangs.py"


def standing(pid: int, steps: int) -> bytes:
    """What the file of a worker with one thread begins with."""
    return stacks.HEAD.pack(pid, steps, *[0] * stacks.THREADS)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A worker's file in `tmp_path`, of pid 7 with no step; the pids that are asked, each of which answers at once."""
    (tmp_path / stacks.NAME).write_bytes(standing(7, 0))
    pids: list[int] = []

    def ask(pid: int) -> bool:
        pids.append(pid)
        with (tmp_path / stacks.NAME).open("ab") as file:
            file.write(b'Current thread 0x1 (most recent call first):\n  File "/job/train.py", line 4 in load\n')
        return True

    monkeypatch.setattr("elastic_events.torchrun.stalls.ask", ask)
    return pids


def test_when_a_worker_is_asked(tmp_path: Path, asked: list[int]) -> None:
    """Without a step for the time, or twice its longest pause; then when that has doubled; a step begins it anew."""
    stuck, files = Stuck(15.0), {0: str(tmp_path / "error.json")}

    def look(now: float, steps: int | None = None) -> list[tuple[int, dict[str, object]]]:
        if steps is not None:
            with (tmp_path / stacks.NAME).open("r+b") as file:
                file.write(standing(7, steps))
        return list(stuck.look(now, files))

    assert not look(0)
    assert not look(59)
    assert not asked  # before its first step it may load for long
    assert not look(60)
    assert asked == [7]
    assert not look(61)  # it has just been written
    ((local_rank, facts),) = look(62)
    assert (local_rank, facts["file"], facts["line"], facts["function"]) == (0, "/job/train.py", 4, "load")
    assert (facts["idle_s"], facts["steps"]) == (60, 0)
    look(80, steps=1)
    look(90, steps=2)
    look(239)
    assert asked == [7]  # its longest pause took 80 seconds
    look(250)
    assert asked == [7, 7]
    for now in range(251, 100_000, 7):
        look(float(now))
    assert len(asked) < MOST  # each time later: a hang of a day is a dozen stacks
    assert look(200_000) is not None


def test_who_does_not_listen_is_not_asked() -> None:
    """A process that has no handler would die of the signal; one that is gone is none."""
    with subprocess.Popen(["sleep", "60"]) as process:
        assert not asking.ask(process.pid)
        process.kill()
    assert not asking.ask(process.pid)
    assert asking.read("/nowhere/error.json") is None


def test_a_program_that_a_worker_runs_is_not_asked(tmp_path: Path) -> None:
    """Only what was forked from it, and so has its file open, is: nobody knows what another program does with the signal."""
    file = tmp_path / stacks.NAME
    with file.open("wb") as kept, subprocess.Popen(["sleep", "60"]) as other:
        with subprocess.Popen(["sleep", "60"], pass_fds=[kept.fileno()]) as heir:
            assert asking.forked(str(tmp_path / "error.json"), os.getpid()) == [heir.pid]
            heir.kill()
        other.kill()


@pytest.mark.timeout(TIMEOUT)
@needs_observer[0]
@needs_observer[1]
def test_a_rank_that_hangs_in_c_with_the_gil_held(tmp_path: Path) -> None:
    """Its line, its thread's and its DataLoader's are in the summary, and it goes on hanging: nothing else became of it."""
    env = environment(TMPDIR=str(tmp_path), ELASTIC_EVENTS_STACKS_AFTER="0.5")
    with subprocess.Popen(
        command(SCRIPT), cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            job, deadline = Job(0, "", tmp_path), time.monotonic() + TIMEOUT
            found: list[dict[str, Any]] = []
            # On a busy machine it may have been asked before its first step, too.
            while not (found and found[0]["function"] == "hangs"):
                assert process.poll() is None
                assert time.monotonic() < deadline, found
                time.sleep(0.2)
                found = summary(job)["stuck"] if list(tmp_path.glob("*.db")) else []
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(TIMEOUT)
    (one,) = found
    assert (one["rank"], one["attempt"], one["file"], one["line"]) == (0, 0, str(SCRIPT), line_of(SCRIPT, "hangs"))
    assert not job.events("observe.off")
    told = job.events("worker.stacks")[-1].metadata
    assert told["steps"] == 3
    child, thread = told["others"].splitlines()
    assert re.fullmatch(rf"child \d+ at {re.escape(str(SCRIPT))}:{line_of(SCRIPT, 'sleeps')} in __getitem__", child)
    assert re.fullmatch(rf"thread \d+ at {re.escape(str(SCRIPT))}:{line_of(SCRIPT, 'waits')} in waits", thread)
    assert one["others"] == [child, thread]
    assert "hangs.py" in told["stack"]
