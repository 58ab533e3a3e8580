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

from elastic_events.bus.record import Record, record_of
from elastic_events.reading.builder import build
from elastic_events.reading.perfetto import trace
from tests.reading.runs import START, Run, two_attempts
from tests.reading.test_source import database, jsonl
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
    assert names == {(2, 1): "rendezvous", (2, 2): "rank 0", (2, 3): "rank 1"}
    slices = [
        (e["name"], e["ts"] / 1e6, e["dur"] / 1e6) for e in found if e["ph"] == "X" and (e["pid"], e["tid"]) == (2, 3)
    ]
    assert slices[:4] == [("rank 1, attempt 0", 1, 8), ("start-up", 1, 3), ("step", 4, 1.25), ("step", 5.25, 1.25)]
    assert [e["args"]["finished"] for e in found if e["name"] == "step" and e["tid"] == 3][:4] == [
        True,
        True,
        True,
        False,
    ]
    failures = {(e["tid"], e["name"]) for e in found if e["ph"] == "i"}
    assert failures == {(2, "ended by its agent"), (3, "failed: SIGKILL")}
    (start,) = [e for e in found if e["ph"] == "s"]
    (end,) = [e for e in found if e["ph"] == "f"]
    assert (start["id"], start["tid"], start["ts"]) == (end["id"], 3, 9e6 - 0.001)
    assert end["ts"] == 11e6
    assert [(e["ts"] / 1e6, e["args"]["workers"]) for e in found if e["ph"] == "C"] == [
        (1, 2),
        (9, 0),
        (11, 2),
        (19.5, 0),
    ]


def nest(slices: list[tuple[float, float]]) -> bool:
    """Whether each slice of a track ends before the one around it."""
    open_: list[float] = []
    for start, end in sorted(slices, key=lambda one: (one[0], -one[1])):
        while open_ and open_[-1] <= start:
            open_.pop()
        if open_ and end > open_[-1]:
            return False
        open_.append(end)
    return True


def check(found: list[dict[str, Any]]) -> None:
    """Hold a trace to the rules of its format."""
    tracks: dict[tuple[int, int], list[tuple[float, float]]] = {}
    names: Counter[tuple[str, int, int]] = Counter()
    beside: dict[tuple[str, str], list[tuple[str, float]]] = {}
    arrows: dict[int, dict[str, dict[str, Any]]] = {}
    for event in found:
        assert event["ph"] == "M" or event["ts"] >= 0
        place = event["pid"], event.get("tid", 1)
        assert min(place) >= 1, "0 is the idle process of Linux"
        if event["ph"] == "X":
            assert event["dur"] >= 0
            tracks.setdefault(place, []).append((event["ts"], round(event["ts"] + event["dur"], 3)))
        elif event["ph"] == "M":
            names[event["name"], *place] += 1
        elif event["ph"] in "be":
            beside.setdefault((event["cat"], event["id"]), []).append((event["ph"], event["ts"]))
        elif event["ph"] in "sf":
            assert type(event["id"]) is int, "text is read as a hexadecimal number"
            assert event["ph"] not in arrows.setdefault(event["id"], {})
            arrows[event["id"]][event["ph"]] = event
        else:
            assert event["ph"] in "iC"
    assert all(map(nest, tracks.values()))
    assert set(names.values()) == {1}
    assert all([ph for ph, _ in pair] == ["b", "e"] and pair[0][1] <= pair[1][1] for pair in beside.values())
    for arrow in arrows.values():
        assert arrow["s"]["ts"] <= arrow["f"]["ts"]
        for end_ in arrow.values():  # each of its ends lies in a slice
            assert any(start <= end_["ts"] < end for start, end in tracks[end_["pid"], end_["tid"]])


@pytest.mark.parametrize("name", STREAMS)
def test_the_rules_of_the_format(name: str) -> None:
    """Slices of a track nest, no time is negative, names are given once, arrows and pairs have both their ends."""
    check(events(load(name)))


def test_clocks_that_differ_a_little() -> None:
    """Where two nodes' clocks differ by less than is corrected, the slices of each track still nest."""
    run = Run()
    for host, ahead, own in (("a", 0.0, (0, 1)), ("b", 0.8, (1, 0))):
        agent = run.agent(host)
        run.tell(ahead, agent, "job.started")
        for attempt, begin in enumerate((1.0, 9.5)):
            at, rank = begin + ahead, own[attempt]
            about = {"attempt": attempt, "world_size": 2, "round": attempt}
            run.tell(at, agent, "rendezvous.completed", rank=0, duration_ms=1500, **about)
            run.tell(at, agent, "attempt.started", **about)
            run.tell(
                at, agent, "worker.started", rank=rank, local_rank=0, pid=100 + rank + 10 * attempt, attempt=attempt
            )
            run.steps(run.worker(rank, attempt, host), range(2), at + 0.1, 1)
            if attempt == 0:
                run.failed(9 + ahead, agent, 0, rank, local_rank=0, signal="SIGKILL", first=host == "b")
            run.tell(9 + ahead + 9 * attempt, agent, "attempt.ended", attempt=attempt, outcome="failed")
    found = events(run.records)
    check(found)
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in found if e["name"] == "thread_name"}
    assert names[2, 2] == names[3, 2] == "worker 0"  # membership gave it another rank
    assert {
        e["name"] for e in found if e["ph"] == "X" and e["pid"] > 1 and e["tid"] == 2 and "attempt" in e["name"]
    } == {
        *("rank 0, attempt 0", "rank 1, attempt 0", "rank 1, attempt 1", "rank 0, attempt 1"),
    }


def test_processes_that_no_agent_spoke_of() -> None:
    """Workers without a rank, at the same time and on several hosts, have a track each."""
    run = Run()
    for pid, host in ((1, "a"), (2, "a"), (3, "b")):
        run.steps(run.worker(None, host=host, pid=pid), range(3), pid, 2)
    found = events(run.records)
    check(found)
    assert len({(e["pid"], e["tid"]) for e in found if e["name"] == "step"}) == 3


def test_steps_that_overlap() -> None:
    """A step that ends in the middle of another one is beside it."""
    run = Run()
    run.start(0, run.agent(), 0, range(1))
    run.steps(run.worker(0), range(3), 1, 2)
    (story,) = build(run.records)
    process = story.attempts[0].workers[0].process
    assert process is not None
    process.ends[0] += 10**9
    found = json.loads("".join(trace(story)))["traceEvents"]
    check(found)
    assert [e["ph"] for e in found if e["name"] == "step"] == ["X", "b", "e", "X"]


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
    run.records.append(record_of("rdzv", 999, START, START, "rdzv", "dynamic_rendezvous", fields, worker))
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


def test_tables_of_several_sources_hold_what_comes_twice_once(tmp_path: Path) -> None:
    """A record that two sources hold, or one source twice, is one row."""
    records = odd_records()
    one = database(tmp_path / "run.db", records)
    other = jsonl(tmp_path / "run.jsonl", [*records[:5], *records])
    for sources in ((one, other), (other,)):
        done = command("export", *map(str, sources), "--csv", "csv", "--force", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found = [row["id"] for path in (tmp_path / "csv").iterdir() for row in rows(path)]
        assert sorted(found) == sorted(record.id for record in records)


def test_tables_of_one_run(tmp_path: Path) -> None:
    """With --run the tables hold the records of that run alone; one that is not there is refused."""
    other = Run("other")
    other.tell(100, other.agent("b"), "job.started")
    path = database(tmp_path / "run.db", [*two_attempts().records, *other.records])
    done = command("export", str(path), "--csv", "all", cwd=tmp_path)
    assert {row["run_id"] for row in rows(tmp_path / "all/events.csv")} == {"run", "other"}
    done = command("export", str(path), "--csv", "csv", "--parquet", "parquet", "--run", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path / "csv/events.csv")
    assert {row["run_id"] for row in found} == {"run"}
    assert len(found) == len(two_attempts().records)
    assert len(pyarrow.parquet.read_table(tmp_path / "parquet/events.parquet")) == len(found)
    done = command("export", str(path), "--csv", "none", "--run", "nothing", cwd=tmp_path)
    assert done.returncode == 2
    assert "no run 'nothing' here; there are run, other" in done.stderr
    assert not (tmp_path / "none").exists()


def test_numbers_that_no_column_holds(tmp_path: Path) -> None:
    """Numbers of a foreign file that are longer than 64 bits are text in CSV, and nothing in Parquet; both are written."""
    line = json.loads(jsonl(tmp_path / "run.jsonl", two_attempts().records[:1]).read_bytes())
    worker = {**line["context"], "pid": 2**64, "rank": -(2**63)}
    points = [
        {**line, "kind": "metric", "value": value, "seq": 2**63 + place, "context": worker}
        for place, value in enumerate((1, 10**400))
    ]
    (tmp_path / "run.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in (line, *points)))
    done = command("export", "run.jsonl", "--csv", "csv", "--parquet", "parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (first, second) = rows(tmp_path / "csv/metrics.csv")
    assert (first["seq"], first["pid"], first["rank"], first["value"]) == (str(2**63), str(2**64), str(-(2**63)), "1.0")
    assert (second["value"], second["value_json"]) == ("", json.dumps(str(10**400)))
    table = pyarrow.parquet.read_table(tmp_path / "parquet/metrics.parquet")
    assert [table.column(name)[0].as_py() for name in ("seq", "pid", "rank")] == [None, None, -(2**63)]


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
    assert not (tmp_path / "tables").exists()
    assert command("export", path, "--perfetto", "there.json", "--force", cwd=tmp_path).returncode == 0
    assert json.loads((tmp_path / "there.json").read_text())["traceEvents"]
