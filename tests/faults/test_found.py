"""What the sweep over all system calls found, each as one call that fails."""

import asyncio
import errno
import os
import resource
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from elastic_events import ConfigError, EventBus
from elastic_events.bus.context import start_time
from elastic_events.recorder.alive import is_locked, runs
from elastic_events.recorder.directory import rings
from elastic_events.recorder.page import PageReader, PageWriter, Standing
from elastic_events.sinks import jsonl, sqlite
from elastic_events.sinks.jsonl import read_jsonl
from elastic_events.sinks.sqlite import read_sqlite
from elastic_events.testing import ListSink
from tests.programs import python


def refuse(error: int) -> Any:
    """Return a call that fails."""

    def call(*_arguments: object, **_options: object) -> None:
        raise OSError(error, os.strerror(error))

    return call


def test_a_directory_that_goes_while_it_is_looked_at_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collector removes its directory while the last program closes: that is no error of the program's."""
    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, refuse(errno.ENOENT))
    assert list(rings(tmp_path)) == []


def test_a_page_that_cannot_be_written_says_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that refuses at any write of the page costs the collector nothing but what it would have said (F77)."""
    pwrite = os.pwrite
    for number in (1, 2, 3):
        page, left = PageWriter(tmp_path), [number]

        def failing(descriptor: int, data: bytes, at: int, left: list[int] = left) -> int:
            left[0] -= 1
            return refuse(errno.ENOSPC)() if left[0] == 0 else pwrite(descriptor, data, at)  # type: ignore[no-any-return]

        page.write(Standing(1, number))
        monkeypatch.setattr(os, "pwrite", failing)
        page.write(Standing(2, number))
        monkeypatch.setattr(os, "pwrite", pwrite)
        page.write(Standing(3, number))
        reader = PageReader(tmp_path)
        assert reader.read() == Standing(3, number)
        reader.close()
        page.close()


#: A collector, which blocks where it likes, in a directory that cannot be listed.
BLIND = """
import os, sys, anyio
from pathlib import Path
from elastic_events.recorder import collector, daemon, directory
def refuse(_directory): raise OSError(24, "Too many open files")
daemon.LAST_WORDS, daemon.rings, collector.rings = 0.1, refuse, refuse
anyio.run(daemon.Daemon(Path("recorders"), directory.take(Path("recorders"))).run)
"""


def test_a_collector_that_cannot_look_takes_nothing_for_gone(tmp_path: Path) -> None:
    """Without a descriptor to list its directory, a collector ends when its patience does, and removes no spool."""
    spooled = tmp_path / "recorders" / ".spool" / "0123" / "events-0000000000000000.spool"
    spooled.parent.mkdir(parents=True)
    spooled.parents[2].chmod(0o700)
    spooled.write_bytes(b"what a killed collector left")
    done = python("-c", BLIND, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        0,
        "elastic_events: the collector cannot look at recorders: Too many open files\n",
    )
    assert spooled.exists()


def test_a_spool_that_cannot_be_opened_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a descriptor for its directory, `subscribe` says which spool it is, and why it cannot be."""
    (tmp_path / "spool").mkdir(0o700)
    monkeypatch.setattr("elastic_events.recorder.segment.os.open", refuse(errno.EMFILE))
    with pytest.raises(ConfigError, match="spool cannot be used: Too many open files"):
        EventBus().subscribe(ListSink(), spool=tmp_path / "spool")


@pytest.mark.parametrize("opens", [EventBus.open, EventBus._open_soon])
def test_a_bus_without_an_event_loop_delivers_when_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opens: Any
) -> None:
    """Where no descriptor is left for a loop, nothing is raised, and nothing is lost: the close drains in its own thread."""
    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "new_event_loop", refuse(errno.EMFILE))
        patch.setattr(asyncio.events, "new_event_loop", refuse(errno.EMFILE))
        bus = EventBus(f"jsonl:///{tmp_path}/run.jsonl")
        opens(bus)
        bus.put_metric("m", 1)
        assert not bus.flush_sync(0.1)
    assert bus.close()
    assert [one.name for one in read_jsonl(tmp_path / "run.jsonl")] == ["m", "bus.ledger"]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EMFILE, errno.EIO])
def test_lines_of_a_disk_that_is_full_at_the_start_are_a_delay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """A disk that refuses when the file is opened stops no program: it is opened as soon as that can be."""
    opened, calls = jsonl.open_private, iter([refuse(error)])

    def refusing(path: Path, flags: int) -> int:
        return int(next(calls, opened)(path, flags))

    monkeypatch.setattr(jsonl, "open_private", refusing)
    with EventBus(f"jsonl:///{tmp_path}/run.jsonl") as bus:
        bus.put_metric("m", 1)
        assert bus.flush_sync(30)
    assert [one.name for one in read_jsonl(tmp_path / "run.jsonl")] == ["m", "bus.ledger"]


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR | 12 << 8, sqlite3.SQLITE_BUSY])
def test_a_database_of_a_disk_that_is_full_at_the_start_is_a_delay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """A disk that refuses when the tables are made stops no program: they are made as soon as that can be."""
    prepare, left = sqlite.prepare, [code]

    def refusing(*arguments: Any) -> None:
        if left:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = left.pop()
            raise error
        prepare(*arguments)

    monkeypatch.setattr(sqlite, "prepare", refusing)
    with EventBus(f"sqlite:///{tmp_path}/run.db") as bus:
        bus.put_metric("m", 1)
        assert bus.flush_sync(30)
    assert [one.name for one in read_sqlite(tmp_path / "run.db")] == ["m", "bus.ledger"]


def test_nobody_is_taken_for_dead_for_want_of_a_descriptor(tmp_path: Path) -> None:
    """Who collects and can open nothing more judges no live worker: a file that is removed under one is lost for good."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    pids = (os.getpid(), ended.pid)
    mine, theirs = (f"{pid:x}-{start_time(pid):x}-0" for pid in pids)
    ended.wait()
    held = tmp_path / "held"
    held.touch()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        found = runs(mine), is_locked(held), runs(theirs), is_locked(tmp_path / "missing")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    # Of a file that cannot be opened nobody knows whether it is missing: the answer that loses nothing.
    assert found == (True, True, False, True)
    assert not is_locked(held)
