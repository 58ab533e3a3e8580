"""Why a script that nobody changed has died, and where."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import elastic_events.reading
from tests.observe.jobs import HERE, Job, launch, line_of, needs_observer, summary
from tests.torchrun.jobs import TIMEOUT

pytestmark = [*needs_observer, pytest.mark.timeout(2 * TIMEOUT)]

SCRIPT = HERE / "deaths.py"

#: Kind -> exit code or signal, what the message begins with, and the comment of the line that is to be named.
DEATHS = {
    "raises": (1, "ValueError: the loss is no number", "raises"),
    "in_torch": (1, "RuntimeError: mat1 and mat2", "in_torch"),
    "chain": (1, "RuntimeError: no such thing", "chain"),
    "group": (1, "ExceptionGroup: several (2 sub-exceptions)", "raises"),
    "loader": (1, "IndexError: Caught IndexError in DataLoader worker process 0.", "loader"),
    "thread": (1, "ZeroDivisionError: division by zero (in thread helper)", "thread"),
    "exits": (7, "sys.exit(7)", "exits"),
    "at_once": (9, "os._exit(9)", "at_once"),
    "segfault": ("SIGSEGV", None, "segfault"),
    "abort": ("SIGABRT", None, "abort"),
    "imports": (1, "ModuleNotFoundError: No module named", "imports"),
    "hooked": (1, "ValueError: the loss is no number", "raises"),
    "logged": ("SIGABRT", None, "logged"),
    "recorded": (1, "ValueError: the loss is no number", "raises"),
}


def failures(job: Job) -> list[dict[str, Any]]:
    """The first failure of each attempt."""
    return [attempt["first_failure"] for attempt in summary(job)["attempts"]]


def test_every_death_is_told_with_its_place(tmp_path: Path) -> None:
    """Whatever way an unmodified script dies, the summary names type or signal, message, file and line; codes are its own."""
    job = launch(tmp_path, SCRIPT, ",".join(DEATHS), restarts=len(DEATHS) - 1)
    found = failures(job)
    assert len(found) == len(DEATHS), job.output
    for failure, (kind, (ending, message, comment)) in zip(found, DEATHS.items(), strict=True):
        assert failure["signal" if isinstance(ending, str) else "exit_code"] == ending, kind
        assert (failure["message"] or "").startswith(message) if message else failure["message"] is None, kind
        assert (failure["file"], failure["line"]) == (str(SCRIPT), line_of(SCRIPT, comment)), kind
    assert not job.events("observe.off")
    # The script's own output, with the whole traceback.
    assert job.output.count("ValueError: the loss is no number") >= 3
    assert "the direct cause of the following exception" in job.output


def test_torchruns_box_shows_the_traceback(tmp_path: Path) -> None:
    """Torch's error file is written as `@record` would have written it: torchrun shows the exception, not a hint."""
    job = launch(tmp_path, SCRIPT, "raises")
    box = job.output.partition("Root Cause")[2]
    assert f'File "{SCRIPT}", line {line_of(SCRIPT, "raises")}, in raises' in box, job.output
    assert "To enable traceback see" not in box
    assert "elastic_events" not in box


def test_the_end_of_a_redirected_stderr_is_kept(tmp_path: Path) -> None:
    """What a rank wrote to its stderr last is part of its failure, where torchrun has it in a file."""
    script = tmp_path / "quits.py"
    script.write_text("import sys, torch\nprint('no licence', file=sys.stderr)\nraise SystemExit(4)\n", "utf-8")
    (tmp_path / "job").mkdir()
    launcher = {"PET_REDIRECTS": "3", "PET_LOG_DIR": str(tmp_path)}
    (failure,) = failures(launch(tmp_path / "job", script, **launcher))
    assert (failure["exit_code"], failure["stderr"].splitlines()[-1]) == (4, "no licence")


def test_switched_off(tmp_path: Path) -> None:
    """`ELASTIC_EVENTS_OBSERVE=off` leaves the workers as they are: torchrun's box gives its hint."""
    job = launch(tmp_path, SCRIPT, "raises", ELASTIC_EVENTS_OBSERVE="off")
    assert not job.events("observe.*")
    assert "To enable traceback see" in job.output


def test_a_program_that_a_rank_runs_is_not_the_rank(tmp_path: Path) -> None:
    """It inherits the environment; its exception is neither in the rank's error file nor the rank's last word."""
    script = tmp_path / "runs.py"
    tool = "import torch; raise KeyError(1)"
    script.write_text(
        f"import subprocess, sys, torch\nsubprocess.run([sys.executable, '-c', {tool!r}])\nraise ValueError(2)\n",
        "utf-8",
    )
    (tmp_path / "job").mkdir()
    (failure,) = failures(launch(tmp_path / "job", script))
    assert (failure["message"], failure["line"]) == ("ValueError: 2", 3)


def test_who_left_in_order_before_its_peer_failed_is_told(tmp_path: Path) -> None:
    """A rank that ends with code 0 while others go on says when; a child that it forks, and that does the same, says nothing."""
    script = tmp_path / "leaves.py"
    script.write_text(
        "import os, sys, time, torch\n"
        "if os.environ['RANK'] == '1':\n"
        "    if os.fork() == 0: os._exit(0)\n"
        "    os.wait(); open('left', 'w').close(); sys.exit(0)\n"
        "while not os.path.exists('left'): time.sleep(0.01)\n"
        "time.sleep(0.05); raise ConnectionError('closed by peer')\n",
        "utf-8",
    )
    (tmp_path / "job").mkdir()
    job = launch(tmp_path / "job", script, processes=2)
    (attempt,) = summary(job)["attempts"]
    assert (attempt["first_failure"]["rank"], attempt["done_before"]) == (0, [1])
    assert [event.metadata["code"] for event in job.events("worker.exit")] == [0]


#: Of a model of two numbers.
STEPS = """import torch
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for _ in range(9):
    model(torch.ones(2)).sum().backward(), optimizer.step()
"""


#: What a test runner does with what it caught.
CAUGHT = """def run():
    try:
        raise ValueError('bad batch')
    except ValueError as error:
        sys.last_value, sys.last_traceback = error, error.__traceback__
import sys
run()
"""


@pytest.mark.parametrize(
    ("end", "session"), [("raise ValueError('bad batch')\n", False), ("1 / 0\n", True), (CAUGHT, False)]
)
def test_a_plain_script_says_what_ended_it(tmp_path: Path, end: str, *, session: bool) -> None:
    """No agent has to tell its exit code. In a session, as of a notebook, an exception ends no more than a line."""
    script = tmp_path / "train.py"
    script.write_text(STEPS + end, "utf-8")
    env = os.environ | {"ELASTIC_EVENTS_OBSERVE": "on", "ELASTIC_EVENTS_DIR": str(tmp_path / "rings")}
    python = [sys.executable, "-i"] if session else [sys.executable]
    subprocess.run([*python, script], env=env, input=b"", capture_output=True, timeout=TIMEOUT, check=False)
    (attempt,) = elastic_events.reading.summary(tmp_path / "rings").attempts
    failure = attempt.first_failure
    assert (failure is None) is (session or end == CAUGHT)
    assert failure is None or (failure.message, failure.line) == ("ValueError: bad batch", 6)
