"""What a SQLite file keeps: by age and by size, oldest first, metric points before events."""

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from elastic_events.bus.record import Record
from elastic_events.sinks import sqlite_retention
from elastic_events.sinks.sqlite import SqliteSink, read_sqlite
from elastic_events.sinks.sqlite_retention import Retention, _size
from elastic_events.sinks.urls import open_url
from tests.sinks.factory import event, metric


def opened(path: Path, retention: Retention) -> SqliteSink:
    """Return an open sink with that retention."""
    sink = SqliteSink(path)
    sink.retention = retention
    sink.open_now()
    return sink


def kept(path: Path) -> list[Record]:
    """Return what the file holds."""
    return list(read_sqlite(path))


def test_what_is_too_old_goes(tmp_path: Path) -> None:
    """Records of each kind go when their own time is further back than `max_age`; a replay brings none of the rest twice."""
    records = [make(n) for n in range(100) for make in (metric, event)]
    now = [records[100].time_ns / 1e9]
    sink = opened(tmp_path / "a.db", Retention(1000.0, None, clock=lambda: now[0], every=0))
    sink.write_now(records)
    assert len(kept(tmp_path / "a.db")) == 200
    now[0] += 1000
    sink.write_now(records[-2:])
    sink.close_now()
    assert sorted({record.seq for record in kept(tmp_path / "a.db")}) == list(range(50, 100))
    assert sink.retention.removed == 100


@pytest.mark.parametrize(("age", "size"), [(1000.0, None), (None, 1)])
def test_a_batch_waits_a_bounded_time_for_what_goes(
    age: float | None, size: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file with much too much in it some goes with each batch: its lane would give up a batch that waits for all."""
    monkeypatch.setattr(sqlite_retention, "ROWS", 10)
    sink = opened(tmp_path / "a.db", Retention(None, None, longest=0))
    sink.write_now([metric(n) for n in range(100)])
    later = metric(0).time_ns / 1e9 + 2000
    sink.retention = Retention(age, size, clock=lambda: later, longest=0)
    left = []
    for number in range(4):
        sink.write_now([metric(100 + number)])
        left.append(100 + number + 1 - sink.retention.removed)
    sink.close_now()
    assert left == sorted(left, reverse=True), "each batch takes some with it"
    assert 40 < left[-1] < left[0] < 101


@pytest.mark.parametrize(("length", "most"), [(16_000, 4_000_000), (1000, 1_000_000), (0, 300_000)])
def test_no_more_goes_than_the_size_asks_for(tmp_path: Path, length: int, most: int) -> None:
    """Of a file that is full of events, long ones or short, a few go: it stays nearly as full as it may be."""
    path = tmp_path / "a.db"
    sink = opened(path, Retention(None, most, every=0, longest=600))
    written, fill = 0, {"text": "x" * length}
    with closing(sqlite3.connect(path)) as other:
        while sink.retention.removed < 20:
            sink.write_now([event(n, fill) for n in range(written, written + 5)])
            written += 5
        assert 0.8 * most < _size(other) <= most
    sink.close_now()
    assert [record.seq for record in kept(path)] == list(range(sink.retention.removed, written))
    assert sink.retention.removed < written / 4


def test_of_long_records_behind_short_ones_as_many_stay_as_fit(tmp_path: Path) -> None:
    """How many may go is not taken from those that went before, which were shorter: the file stays nearly full."""
    path = tmp_path / "a.db"
    sink = opened(path, Retention(None, None, every=0, longest=600))
    sink.write_now([event(number) for number in range(20_000)])
    sink.write_now([event(number, {"text": "x" * 50_000}) for number in range(20_000, 20_100)])
    sink.retention.max_size = most = 4_000_000
    sink.write_now([event(30_000)])
    with closing(sqlite3.connect(path)) as other:
        assert 0.8 * most < _size(other) <= most
    sink.close_now()
    left = kept(path)
    assert sink.retention.removed == 20_101 - len(left)
    assert 60 < len(left) < 100


def test_a_late_record_of_long_ago_is_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last row stays, however old it is; the others go by their age, and events after the points, as ever."""
    path = tmp_path / "a.db"
    late, now = metric(30_000, time_ns=1), metric(30_000).time_ns / 1e9 + 1000
    sink = opened(path, Retention(None, None, clock=lambda: now, every=0))
    sink.write_now([event(number) for number in range(100)])
    sink.write_now([metric(number) for number in range(25_000)])
    with closing(sqlite3.connect(path)) as other:
        sink.retention.max_size = _size(other) - 100_000
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_retention, "FEW", 1)
        sink.write_now([late])
    counts = Counter(record.kind for record in kept(path))
    assert counts["event"] == 100
    assert counts["metric"] < 25_000
    sink.retention.max_size, sink.retention.max_age = None, 1.0
    sink.write_now([])
    sink.close_now()
    assert [record.seq for record in kept(path) if record.kind == "metric"] == [30_000]


def test_the_file_grows_no_further_and_keeps_events(tmp_path: Path) -> None:
    """A file at its size holds the newest metric points and all events; one that events alone fill loses the oldest."""
    most = 1_000_000
    path = tmp_path / "a.db"
    sink = opened(path, Retention(None, most, every=0))
    sink.write_now([event(n) for n in range(100)])
    for start in range(0, 60_000, 2000):
        sink.write_now([metric(n) for n in range(start, start + 2000)])
    points = [record.seq for record in kept(path) if record.kind == "metric"]
    assert points == list(range(points[0], 60_000))
    assert 0 < len(points) < 30_000
    assert len([record for record in kept(path) if record.kind == "event"]) == 100
    for start in range(100, 40_000, 2000):
        sink.write_now([event(n) for n in range(start, start + 2000)])
    sink.close_now()
    events = [record.seq for record in kept(path) if record.kind == "event"]
    assert events == list(range(events[0], events[-1] + 1))
    assert events[-1] > 39_000
    assert path.stat().st_size < 2 * most


def test_who_follows_the_file_goes_on(tmp_path: Path) -> None:
    """A reader that follows gets what comes after everything before it was removed."""
    path = tmp_path / "a.db"
    now = [metric(0).time_ns / 1e9]
    sink = opened(path, Retention(10.0, None, clock=lambda: now[0], every=0))
    sink.write_now([metric(n) for n in range(10)])
    reading = read_sqlite(path)
    assert len(list(reading)) == 10
    now[0] += 10_000
    sink.write_now([metric(10)])
    sink.write_now([metric(11)])
    sink.close_now()
    assert [record.seq for record in read_sqlite(path, after=reading.position)][-1] == 11


def test_what_was_too_old_to_keep_makes_no_other_file(tmp_path: Path) -> None:
    """A reader that follows gets each record once, though the last that it saw of a kind is gone, and is told no damage."""
    path = tmp_path / "a.db"
    now = [metric(0).time_ns / 1e9]
    sink = opened(path, Retention(10.0, None, clock=lambda: now[0], every=0))
    sink.write_now([event(0), metric(1)])
    told: list[str] = []
    reading = read_sqlite(path)
    assert len(list(reading)) == 2
    now[0] += 10_000
    sink.write_now([metric(10_000)])
    first = read_sqlite(path, after=reading.position, damaged=lambda *what: told.append(str(what)))
    assert [record.seq for record in first] == [10_000]
    sink.write_now([event(10_001)])  # now that of the start may go
    second = read_sqlite(path, after=first.position, damaged=lambda *what: told.append(str(what)))
    assert [record.seq for record in second] == [10_001]
    assert told == []
    sink.close_now()


@pytest.mark.parametrize(("query", "kept"), [("", (None, None)), ("?max_age=30d&max_size=10GB", (2_592_000.0, 10**10))])
def test_a_url_says_what_is_kept(query: str, kept: tuple[float | None, int | None]) -> None:
    """Age and size come from the URL; without them all is kept."""
    sink = open_url(f"sqlite:///x.db{query}")
    assert isinstance(sink, SqliteSink)
    assert (sink.retention.max_age, sink.retention.max_size) == kept
