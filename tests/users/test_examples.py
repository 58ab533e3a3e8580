"""The programs of docs/examples run as they stand."""

import sqlite3
from pathlib import Path

import pytest

from tests.programs import python

EXAMPLES = Path(__file__).parent.parent.parent / "docs/examples"


def run(name: str, folder: Path) -> str:
    """Run an example in an empty folder, without a warning; return what it printed."""
    done = python("-W", "error", str(EXAMPLES / name), cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_launcher_on_asyncio(tmp_path: Path) -> None:
    """It pages for the worker that was killed, starts the group again, and has every record of both attempts."""
    said = run("launcher_asyncio.py", tmp_path)
    assert "page: worker.failed {'attempt': 0, 'rank': 1, 'exit_code': -9}" in said
    assert "0 dropped" in said
    with sqlite3.connect(tmp_path / "job.db") as database:
        points = database.execute("SELECT COUNT(*) FROM metrics WHERE name = 'loss'").fetchone()[0]
        names = [row[0] for row in database.execute("SELECT name FROM events")]
    database.close()
    assert points == 20 + 11 + 20 + 20
    assert names.count("worker.died") == 1
    assert names.count("done") == 3


def test_launcher_on_trio(tmp_path: Path) -> None:
    """It learns of the worker that was killed from the bus, and ends with all that was recorded."""
    said = run("launcher_trio.py", tmp_path)
    assert "worker.failed {'rank': 1, 'exit_code': -9}" in said
    lines = (tmp_path / "job.jsonl").read_text().splitlines()
    assert any("worker.died" in line for line in lines)
    assert "bus.ledger" in lines[-1]


def test_fastapi_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a request records is seen by who listens, and is in the service's database."""
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    monkeypatch.chdir(tmp_path)
    test = """
import sys, time
sys.path.insert(0, sys.argv[1])
from concurrent.futures import ThreadPoolExecutor
from fastapi.testclient import TestClient
from elastic_events import Event, EventSource
from elastic_events.testing import capture
from service_fastapi import app

from tests.programs import python

with capture(buses="all") as seen, TestClient(app) as client, ThreadPoolExecutor() as pool:
    assert client.post("/jobs/7").json() == {"job_id": 7}
    assert [one.metadata for one in seen.named("job.submitted")] == [{"job_id": 7}]
    ended = pool.submit(client.get, "/jobs/7/end")
    while not ended.done():
        time.sleep(0.01)
        app.state.bus.record(Event("job.ended", EventSource.AGENT, metadata={"job_id": 7, "ok": True}))
    assert ended.result().json() == {"job_id": 7, "ok": True}
    assert client.get("/jobs/8/end?timeout=0.01").status_code == 504
    app.state.bus.flush_sync(30).raise_if_undelivered()
print(app.state.bus.stats().state)
"""
    done = python("-c", test, str(EXAMPLES), cwd=tmp_path)
    assert done.stdout == "closed\n", done.stderr
