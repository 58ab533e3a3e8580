"""The command line as a user meets it: what works, and the sentence when it does not."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from elastic_events.cli import COMMANDS
from elastic_events.sinks.sqlite import read_sqlite
from tests.recorder.test_recorder import record_some


def command(*arguments: str, cwd: Path, timeout: float = 60, before: str = "") -> "subprocess.CompletedProcess[str]":
    """Run elastic-events; `before` is Python that runs first."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{before}\nfrom elastic_events.cli import main; main()", *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_demo(tmp_path: Path) -> None:
    """The demo trains, loses a worker to SIGKILL, restarts, ends well, and tells so from the database."""
    done = command("demo", "run.db", "--steps", "120", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rank 2 died of SIGKILL; the group restarts" in done.stdout
    assert re.search(r"0 +\+[\d.]+ ms .* 0 to 70 +failed +rank 2 on \S+: SIGKILL, 3 victims", done.stdout), done.stdout
    assert re.search(r"1 +\+[\d.]+ m?s .* 60 to 119 +succeeded", done.stdout), done.stdout
    assert re.search(r"(\d+) accepted, \1 delivered, none lost", done.stdout)
    records = list(read_sqlite(tmp_path / "run.db"))
    (died,) = [r for r in records if r.name == "worker.failed" and r.event.metadata["first"]]
    last = [r for r in records if r.context.pid == died.event.metadata["pid"] and r.name != "worker.died"]
    assert last[-1].event.name in ("step.started", "step.ended")
    assert last[-1].event.metadata["step"] in (69, 70, 71)
    victims = [r for r in records if r.name == "worker.failed" and r.event.metadata["victim"]]
    assert len(victims) == 3
    assert [r.name for r in records if r.name.startswith("job.")] == ["job.started", "job.succeeded"]
    losses = [r.fields[0] for r in records if r.name == "loss"]
    assert losses[-1] < losses[0] / 3
    again = command("summary", "run.db", cwd=tmp_path)
    assert "Last words of rank 2" in again.stdout
    assert command("demo", "run.db", cwd=tmp_path).returncode == 2


def test_recover_and_replay(tmp_path: Path) -> None:
    """What a dead process left is printed, delivered, and delivered again without a duplicate."""
    record_some(tmp_path / "rings", 3)
    done = command("recover", "rings", "--last", "2", "--to", "sqlite:///out.db", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "6 records" in done.stdout
    assert "6 of 6 records delivered" in done.stdout
    assert done.stdout.count("\n  ") == 2
    command("recover", "rings", "--to", "sqlite:///out.db", cwd=tmp_path)
    command("replay", "rings", "--to", "sqlite:///out.db", cwd=tmp_path)
    assert len([r for r in read_sqlite(tmp_path / "out.db") if r.kind != "ledger"]) == 6


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("tail", "missing.db"), "does not exist"),
        (("summary", "missing.db"), "no such file or directory"),
        (("summary", "foreign.db"), "foreign.db"),
        (("recover", "missing"), "no such directory"),
        (("replay", "rings", "--to", "nowhere://x"), "no sink is called 'nowhere'"),
        (("replay", "rings", "--to", "sqlite:///no/such/dir/x.db"), "mkdir"),
        (("demo", "no/such/dir/x.db"), "mkdir"),
        (("nonsense",), "No such command"),
    ],
)
def test_mistakes_get_a_sentence(arguments: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    """A user's mistake is one sentence on stderr and exit code 2, never a traceback."""
    record_some(tmp_path / "rings", 1)
    (tmp_path / "foreign.db").write_bytes(b"SQLite format 3\0" + bytes(5000))
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_every_command_has_help(tmp_path: Path) -> None:
    """Each command that is listed exists, and says what it is for."""
    listed = command("--help", cwd=tmp_path).stdout
    for name in COMMANDS:
        assert name in listed
        assert command(name, "--help", cwd=tmp_path).returncode == 0
