"""`elastic-events tail`: every record of a file, one line each, and following it."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from elastic_events import Event, EventSource
from elastic_events.bus.context import read_context
from elastic_events.bus.emit import Emitter
from elastic_events.bus.errors import InputError
from elastic_events.bus.record import Record
from elastic_events.bus.redact import Redactor
from elastic_events.cli.tail import command
from elastic_events.recorder.writer import open_rings
from elastic_events.sinks.console import _offset, format_record
from elastic_events.sinks.jsonl import JsonlSink, read_jsonl
from elastic_events.sinks.rotated import prune
from elastic_events.sinks.sqlite import SqliteSink
from tests.sinks.factory import event, ledger, metric, metrics
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


class Tail:
    """`tail -f` in a process of its own; its lines are awaited with a deadline."""

    def __init__(self, *arguments: str, cwd: Path) -> None:
        script = "from elastic_events.cli.tail import command; command()"
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", script, "-f", *arguments],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.out, self.err = self.process.stdout.fileno(), self.process.stderr.fileno()
        self.rest = {self.out: b"", self.err: b""}

    def line(self, descriptor: int) -> str:
        """The next line; fails after half a minute."""
        while b"\n" not in self.rest[descriptor]:
            assert select.select([descriptor], [], [], 30)[0], self.rest
            data = os.read(descriptor, 65536)
            assert data, self.rest
            self.rest[descriptor] += data
        line, _, self.rest[descriptor] = self.rest[descriptor].partition(b"\n")
        return line.decode()

    def prints(self, *records: Record) -> None:
        """The next lines of the output are these records."""
        for record in records:
            assert self.line(self.out) == format_record(record)

    def says(self) -> str:
        """The next line on stderr."""
        return self.line(self.err)

    def ends(self) -> None:
        """Ctrl-C ends it, with nothing more to say."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.communicate(timeout=30) == (b"", b"")
        assert self.process.returncode == 0
        assert set(self.rest.values()) == {b""}


@pytest.fixture
def tail(tmp_path: Path) -> Iterator[Callable[..., Tail]]:
    """Start `tail -f` in `tmp_path`; none of them outlives the test."""
    started: list[Tail] = []

    def start(*arguments: str) -> Tail:
        started.append(Tail(*arguments, cwd=tmp_path))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., None]:
    """Append records to a file of `tmp_path` with a sink of their own."""

    def write(kind: Any, name: str, *records: Any, **options: Any) -> None:
        sink = kind(tmp_path / name, **options)
        sink.open_now()
        sink.write_now(list(records))
        sink.close_now()

    return write


@both
def test_tail_f_follows_until_ctrl_c(kind: Any, tmp_path: Path, tail: Any) -> None:
    """What is written after the command began is printed soon; Ctrl-C ends it without a traceback."""
    sink = kind(tmp_path / "run", **({"rotate": 1000} if kind is JsonlSink else {}))
    sink.open_now()
    sink.write_now(metrics(3))
    following = tail("-n", "1", "run")
    following.prints(metric(2, 1.0))
    for start in (3, 6, 9):
        sink.write_now(metrics(3, start))
        following.prints(*metrics(3, start))
    following.ends()
    sink.close_now()


@both
def test_tail_f_waits_for_a_file(kind: Any, tmp_path: Path, tail: Any, write: Any) -> None:
    """A file that is not there yet is waited for, which is said once; an empty one, as a writer makes it, likewise."""
    following = tail("run")
    assert following.says() == "waiting: run does not exist"
    (tmp_path / "run").touch(0o600)
    write(kind, "run", *metrics(3))
    following.prints(*metrics(3))
    following.ends()


@both
def test_tail_f_tells_of_a_file_that_is_another(kind: Any, tmp_path: Path, tail: Any, write: Any) -> None:
    """A file that was removed is waited for; what takes its place is told, and printed from its start."""
    write(kind, "run", *metrics(5))
    following = tail("run")
    following.prints(*metrics(5))
    write(kind, "other", *metrics(8, 10))
    for name in ("run", "run-wal", "run-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    assert following.says() == "waiting: run does not exist"
    (tmp_path / "other").rename(tmp_path / "run")
    following.prints(*metrics(8, 10))
    assert "replaced" in following.says()
    following.ends()


def test_tail_f_tells_of_a_file_that_was_cut(tmp_path: Path, tail: Any, write: Any) -> None:
    """A file that was emptied and written anew, past where it was read to, is told and printed from its start."""
    write(JsonlSink, "run", *metrics(3))
    following = tail("run")
    following.prints(*metrics(3))
    whole = tmp_path / "whole"
    write(JsonlSink, "whole", *metrics(8, 10))
    with (tmp_path / "run").open("r+b") as file:
        file.truncate(0)
        file.write(whole.read_bytes())
    following.prints(*metrics(8, 10))
    assert following.says() == "run was cut or replaced after line 3: read from its start"
    following.ends()


def test_parts_that_went_between_two_looks_are_told(tmp_path: Path) -> None:
    """Rotations that removed what was not read yet are told with the part and the line; what is left is read once."""
    sink = JsonlSink(tmp_path / "run", rotate=1, keep=1, pack=False)
    sink.open_now()
    sink.write_now(metrics(1))
    look = read_jsonl(tmp_path / "run")
    assert [record.seq for record in look] == [0]
    for seq in range(1, 5):
        sink.write_now(metrics(1, seq))  # each puts the file aside
    sink.close_now()
    prune(tmp_path / "run", 1)  # the sink's thread does it in its own time
    told: list[tuple[int, str]] = []
    again = read_jsonl(tmp_path / "run", after=look.position, damaged=lambda line, why: told.append((line, why)))
    assert [record.seq for record in again] == [3, 4]
    assert told == [(0, "run.1 to 3 are gone, with what was written after line 1")]
    third = read_jsonl(tmp_path / "run", after=again.position, damaged=lambda line, why: told.append((line, why)))
    assert (list(third), len(told)) == ([], 1)


def test_tail_of_several(tmp_path: Path, tail: Any, write: Any) -> None:
    """Several sources are one list by time; each of them, a directory of recorders as well, is followed."""
    write(JsonlSink, "a", *metrics(8)[::2])
    write(SqliteSink, "b", *metrics(8)[1::2])
    assert run(tmp_path / "a", tmp_path / "b").output.splitlines() == [format_record(record) for record in metrics(8)]
    following = tail("a", "b", "rings")
    following.prints(*metrics(8))
    assert following.says() == "waiting: rings does not exist"
    events, points = open_rings(tmp_path / "rings", read_context(), 2048)
    emitter = Emitter(events.pipe, points.pipe, Redactor())
    emitter.put_metric("first", 1)
    assert " first = 1" in following.line(following.out)
    write(SqliteSink, "b", *metrics(2, 20))
    following.prints(*metrics(2, 20))
    emitter.put_metric("second", 2)
    emitter.record(Event("third", EventSource.WORKER))
    assert "second = 2" in following.line(following.out)
    assert "third WORKER" in following.line(following.out)
    following.ends()


def test_tail_of_several_prints_what_comes_twice_once(tmp_path: Path, tail: Any, write: Any) -> None:
    """A record that two sources hold, or one that is given twice, is one line, at whichever look it comes; a ledger that
    says more is another, as is a collector's word on a death that has the number of a record which comes late."""
    first, more = ledger(90), ledger(90, fields=({"lane": "sqlite", "accepted": 9},))
    died, late = event(50, name="worker.died"), event(50, name="late", time_ns=event(51).time_ns)
    write(JsonlSink, "a", *metrics(8), died, first)
    write(SqliteSink, "b", *metrics(4), late, first)
    once = [*metrics(8), died, late, first]
    assert run(*(tmp_path / name for name in "abba")).output.splitlines() == [format_record(record) for record in once]
    following = tail("a", "b")
    following.prints(*once)
    write(SqliteSink, "b", *metrics(4, 4), metric(8))
    following.prints(metric(8))
    write(JsonlSink, "a", metric(8), more)
    following.prints(more)
    following.ends()


def test_tail_of_one_prints_what_it_holds_twice_once(tail: Any, write: Any) -> None:
    """A batch that was written again, as after a write that was cut, is printed once, in the order of the file."""
    write(JsonlSink, "a", *metrics(4), *metrics(2, 4), ledger(90))
    following = tail("a")
    following.prints(*metrics(4), *metrics(2, 4), ledger(90))
    write(JsonlSink, "a", *metrics(2, 4), metric(9))
    following.prints(metric(9))
    following.ends()


def test_tail_of_an_empty_directory(tmp_path: Path) -> None:
    """A directory without a flight recorder gets a sentence, not silence."""
    with pytest.raises(InputError, match="holds no flight recorder"):
        run(tmp_path)


def test_the_hour_that_comes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the hours that the end of summer time makes twice, a line says which of them it is of."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    _offset.cache_clear()
    try:
        change = 1_761_440_400  # 2025-10-26 01:00 UTC
        record = metric(1, 1.0)
        lines = [
            format_record(msgspec.structs.replace(record, time_ns=(change + shift) * 10**9)).split(" ")[1]
            for shift in (-3601, -3600, -1, 0, 3599, 3600)
        ]
        assert lines == [
            *("01:59:59.000", "02:00:00.000+0200", "02:59:59.000+0200"),
            *("02:00:00.000+0100", "02:59:59.000+0100", "03:00:00.000"),
        ]
    finally:
        monkeypatch.undo()
        time.tzset()
        _offset.cache_clear()
