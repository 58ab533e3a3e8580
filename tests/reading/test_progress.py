"""How far a long reading has come, on a terminal."""

import contextlib
import os
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from elastic_events.cli import reading
from elastic_events.sinks.stored import to_json
from tests.reading.runs import Run


@pytest.fixture
def long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of many records; by the clock of who reads it each look takes a second."""
    run = Run()
    run.start(0, run.agent(), 0, range(1))
    run.metric(5, run.worker(0), "loss", 0.5)
    *first, metric = (to_json(record) + b"\n" for record in run.records)
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"".join(first) + 40_000 * metric)
    ticks = count()
    monkeypatch.setattr(reading, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    return path


def test_a_terminal_shows_how_much_was_read(long: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line on the terminal names the file and its share, which grows; when all is read the line is gone."""
    terminal, end = os.openpty()
    with open(end, "w", encoding="utf-8") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        assert len(reading.stories_of((str(long),))) == 1
    shown = b""
    with contextlib.suppress(OSError):  # what Linux says when the other end is closed, and all is read
        while piece := os.read(terminal, 65536):
            shown += piece
    os.close(terminal)
    *lines, last = shown.decode().split("\r\x1b[K")[1:]
    shares = [int(line.removeprefix(f"reading {long}: ").removesuffix("%")) for line in lines]
    assert len(shares) >= 2
    assert 0 <= shares[0] < shares[-1] < 100
    assert last == ""


def test_a_file_gets_no_progress(long: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Where stderr is no terminal, nothing is said while all is read."""
    assert len(reading.stories_of((str(long),))) == 1
    assert capfd.readouterr().err == ""
