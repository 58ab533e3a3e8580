"""Traces and tables: what other programs read gives back what was recorded."""

import csv
import json
import math
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from elastic_events.bus.record import Record
from elastic_events.reading.builder import build
from elastic_events.reading.perfetto import trace
from tests.reading.runs import START, Run, two_attempts
from tests.reading.test_source import database
from tests.streams import STREAMS, load
from tests.test_cli import command


def events(records: list[Record]) -> list[dict[str, Any]]:
    """The events of a run's trace, after the whole of it was parsed as one document."""
    (story,) = build(records)
    document = json.loads("".join(trace(story)))
    assert set(document) == {"displayTimeUnit", "traceEvents"}
    return document["traceEvents"]  # type: ignore[no-any-return]


def test_the_trace() -> None:
    """A track a node and a rank, slices for what they did, an instant for a failure, an arrow to the restart."""
    found = events(two_attempts().records)
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in found if e["name"] == "thread_name"}
    assert names == {(1, 0): "rendezvous", (1, 1): "rank 0", (1, 2): "rank 1"}
    slices = [
        (e["name"], e["ts"] / 1e6, e["dur"] / 1e6) for e in found if e["ph"] == "X" and (e["pid"], e["tid"]) == (1, 2)
    ]
    assert slices[:4] == [("worker, attempt 0", 1, 8), ("start-up", 1, 3), ("step", 4, 1.25), ("step", 5.25, 1.25)]
    assert [e["args"]["finished"] for e in found if e["name"] == "step" and e["tid"] == 2][:4] == [
        True,
        True,
        True,
        False,
    ]
    failures = {(e["tid"], e["name"]) for e in found if e["ph"] == "i"}
    assert failures == {(1, "ended by its agent"), (2, "failed: SIGKILL")}
    (start,) = [e for e in found if e["ph"] == "s"]
    (end,) = [e for e in found if e["ph"] == "f"]
    assert (start["id"], start["tid"], start["ts"]) == (end["id"], 2, 9e6)
    assert end["ts"] == 11e6
    assert [(e["ts"] / 1e6, e["args"]["workers"]) for e in found if e["ph"] == "C"] == [
        (1, 2),
        (9, 0),
        (11, 2),
        (19.5, 0),
    ]


@pytest.mark.parametrize("name", STREAMS)
def test_slices_of_one_track_nest(name: str) -> None:
    """On every track a slice ends before the one around it, no time is negative, and each arrow has both its ends."""
    found = events(load(name))
    tracks: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in found:
        if event["ph"] == "X":
            tracks.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    assert tracks
    for slices in tracks.values():
        open_: list[float] = []
        for start, end in sorted(slices, key=lambda one: (one[0], -one[1])):
            while open_ and open_[-1] <= start:
                open_.pop()
            assert start >= 0
            assert not open_ or end <= open_[-1]
            open_.append(end)
    arrows = Counter((event["id"], event["ph"]) for event in found if event["ph"] in "sf")
    assert all(arrows[number, "s"] == arrows[number, "f"] == 1 for number, _ in arrows)


def test_a_checkpoint_beside_a_step_is_not_on_its_track() -> None:
    """What runs beside a step is an asynchronous slice, since slices of one track have to nest."""
    run = Run()
    run.start(0, run.agent(), 0, range(1))
    worker = run.worker(0)
    run.tell(1, worker, "step.started", step=0)
    run.tell(2, worker, "checkpoint.started", step=0)
    run.tell(3, worker, "step.ended", step=0)
    run.tell(4, worker, "checkpoint.ended", step=0)
    assert [e["ph"] for e in events(run.records) if e["name"] == "checkpoint"] == ["b", "e"]


def odd_records() -> list[Record]:
    """Records with all that makes tables go wrong."""
    run = two_attempts()
    worker = run.worker(0)
    for name in ('quoted "name"', "comma, name", "two\nlines", "=1+1", "snow ☃", "<script>"):
        run.tell(30, worker, name, text=name, nested={"a": [1, None]})
    for value in (1, 2.5, math.nan, math.inf, True, "high", None, 2**70):
        run.metric(31, worker, "value", value)
    fields = ("run", "a message", "host", 7, "RUNNING", "", None, 0, "trace\nback")
    run.records.append(Record("rdzv", 999, START, START, "rdzv", "dynamic_rendezvous", fields, worker))
    return run.records


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, as another program reads them."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_tables(tmp_path: Path) -> None:
    """CSV and Parquet hold each record once, as the database has it, with every quote, line and odd value."""
    path = database(tmp_path / "run.db", odd_records())
    done = command("export", str(path), "--csv", "csv", "--parquet", "parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    events_ = rows(tmp_path / "csv/events.csv")
    metrics = rows(tmp_path / "csv/metrics.csv")
    messages = rows(tmp_path / "csv/rdzv_events.csv")
    assert len({row["id"] for row in events_}) == sum(record.kind == "event" for record in odd_records())
    texts = [json.loads(row["metadata"])["text"] for row in events_[-6:]]
    assert texts == [row["name"].removeprefix("'") for row in events_[-6:]]
    assert [row["value_json"] for row in metrics] == [
        *("1", "2.5", '"NaN"', '"Infinity"', "true", '"high"', "null", '"1180591620717411303424"'),
    ]
    assert [row["value"] for row in metrics][:2] == ["1.0", "2.5"]
    assert (messages[0]["message"], messages[0]["event_pid"], messages[0]["pid"]) == ("a message", "7", "100")
    table = pyarrow.parquet.read_table(tmp_path / "parquet/events.parquet")
    assert table.column("metadata").to_pylist() == [row["metadata"] for row in events_]
    assert table.column("rank").to_pylist() == [int(row["rank"]) if row["rank"] else None for row in events_]
    values = pyarrow.parquet.read_table(tmp_path / "parquet/metrics.parquet").column("value").to_pylist()
    assert values[:2] == [1.0, 2.5]
    assert math.isnan(values[2])
    assert values[5:7] == [None, None]
    for file in (tmp_path / "csv").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_no_cell_is_a_formula(tmp_path: Path) -> None:
    """Text that a spreadsheet would run has an apostrophe in front; numbers, negative ones too, stay what they are."""
    run = two_attempts()
    for name in ("=cmd|' /C calc'!A0", "+1", "-2+3", "@SUM(1)", "\tx", "plain"):
        run.tell(30, run.worker(0), name)
    run.metric(31, run.worker(0), "loss", -2.5e-7)
    path = database(tmp_path / "run.db", run.records)
    assert command("export", str(path), "--csv", "csv", cwd=tmp_path).returncode == 0
    names = [row["name"] for row in rows(tmp_path / "csv/events.csv")][-6:]
    assert names == ["'=cmd|' /C calc'!A0", "'+1", "'-2+3", "'@SUM(1)", "'\tx", "plain"]
    (metric,) = rows(tmp_path / "csv/metrics.csv")
    assert (metric["value"], metric["value_json"]) == ("-2.5e-07", "-2.5e-7")


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    """Nothing to do, a missing directory, a file that is there, a link, no record: one sentence each, and nothing written."""
    path = str(database(tmp_path / "run.db", two_attempts().records))
    (tmp_path / "there.json").write_text("mine")
    (tmp_path / "link.json").symlink_to(tmp_path / "elsewhere.json")
    (tmp_path / "empty.jsonl").write_text("")
    for arguments, sentence in (
        ((path,), "say what to export"),
        ((path, "--perfetto", "no/such/trace.json"), "does not exist"),
        ((path, "--perfetto", "there.json"), "there.json exists"),
        ((path, "--perfetto", "link.json"), "symbolic link"),
        ((path, "--csv", "no/such"), "cannot write to no/such"),
        (("empty.jsonl", "--csv", "tables"), "no record can be read from empty.jsonl"),
    ):
        done = command("export", *arguments, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr
    assert (tmp_path / "there.json").read_text() == "mine"
    assert not (tmp_path / "elsewhere.json").exists()
    assert list((tmp_path / "tables").iterdir()) == []
    assert command("export", path, "--perfetto", "there.json", "--force", cwd=tmp_path).returncode == 0
    assert json.loads((tmp_path / "there.json").read_text())["traceEvents"]
