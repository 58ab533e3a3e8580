"""`elastic-events tail`: every record of a file, one line each, and following it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from elastic_events.bus.errors import InputError
from elastic_events.cli.tail import command
from elastic_events.sinks.console import format_record
from elastic_events.sinks.jsonl import JsonlSink
from elastic_events.sinks.sqlite import SqliteSink
from tests.sinks.factory import event, metric, metrics
from tests.streams import load

SINKS = [pytest.param(JsonlSink, id="jsonl"), pytest.param(SqliteSink, id="sqlite")]
both = pytest.mark.parametrize("kind", SINKS)


def run(*arguments: Any) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def fill(tmp_path: Path) -> Callable[..., Path]:
    """Write records with a sink; return the file."""

    def write(kind: Any, *records: Any) -> Path:
        sink = kind(tmp_path / "run")
        sink.open_now()
        sink.write_now(list(records))
        sink.close_now()
        return tmp_path / "run"

    return write


@both
def test_tail_prints_every_record_as_the_console_does(kind: Any, fill: Any) -> None:
    """A real torchrun run: one line a record, in order."""
    records = load("run2_fail_once")
    assert run(fill(kind, *records)).output.splitlines() == [format_record(record) for record in records]


@both
@pytest.mark.parametrize(("count", "expected"), [(0, []), (2, [8, 9]), (99, list(range(10)))])
def test_tail_n_prints_the_last(kind: Any, count: int, expected: list[int], fill: Any) -> None:
    """`-n N` prints the last N records, or all there are."""
    lines = run("-n", count, fill(kind, *metrics(10))).output.splitlines()
    assert lines == [format_record(metrics(10)[seq]) for seq in expected]


@both
def test_tail_escapes_what_a_file_holds(kind: Any, fill: Any) -> None:
    """F64: a planted escape sequence does not reach the terminal; colour is ours alone."""
    path = fill(kind, event(1, {"a": "\x1b[2J\n"}))
    assert "\x1b" not in run(path).output
    assert "\x1b[2J" not in run("--color", path).output
    assert "\x1b[31m" in run("--color", path).output


def test_tail_says_what_it_skipped(tmp_path: Path, fill: Any) -> None:
    """F68: damaged lines are told on stderr by their number, the rest is printed."""
    path = fill(JsonlSink, *metrics(2))
    with path.open("ab") as file:
        file.write(b"broken\nbroken\n")
    result = run(path)
    assert result.stdout.splitlines() == [format_record(record) for record in metrics(2)]
    assert result.stderr.startswith("skipped line 3: run: ")
    assert result.stderr.endswith(", and 1 more\n")


def test_tail_of_nothing_is_one_of_our_errors(tmp_path: Path) -> None:
    """A missing file is an InputError, which the command group prints as a sentence."""
    with pytest.raises(InputError, match="does not exist"):
        run(tmp_path / "nothing")


@both
def test_tail_f_follows_until_ctrl_c(kind: Any, tmp_path: Path) -> None:
    """What is written after the command began is printed soon; Ctrl-C ends it without a traceback."""
    sink = kind(tmp_path / "run", **({"rotate": 1000} if kind is JsonlSink else {}))
    sink.open_now()
    sink.write_now(metrics(3))
    script = "from elastic_events.cli.tail import command; command()"
    tail = subprocess.Popen(
        [sys.executable, "-c", script, "-f", "-n", "1", str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert tail.stdout is not None
    try:
        assert tail.stdout.readline().rstrip("\n") == format_record(metric(2, 1.0))
        for start in (3, 6, 9):
            sink.write_now(metrics(3, start))
            for record in metrics(3, start):
                assert tail.stdout.readline().rstrip("\n") == format_record(record)
        tail.send_signal(signal.SIGINT)
        assert tail.communicate(timeout=10) == ("", "")
        assert tail.returncode == 0
    finally:
        tail.kill()
        tail.communicate()
        sink.close_now()
