"""Dead letters by URL and by environment: what a sink refuses is kept, and can be sent again."""

from pathlib import Path

import pytest

from elastic_events import ConfigError, EventBus
from elastic_events.sinks.jsonl import read_jsonl
from elastic_events.sinks.sqlite import read_sqlite
from elastic_events.sinks.urls import absolute, open_dead_letters, open_url
from elastic_events.testing import ListSink
from tests.test_cli import command

#: A sink that refuses a metric which is text.
REFUSES = "prometheus://127.0.0.1:0"


def refused(*urls: str) -> "EventBus":
    """Record two numbers and two texts into a bus with the sinks of `urls`; return the bus, closed."""
    with EventBus(*urls) as bus:
        for value in (1, "two", 3, "four"):
            bus.put_metric("m", value)
    return bus


def test_a_url_says_where_its_dead_letters_go(tmp_path: Path) -> None:
    """What the sink refuses is in the file that its URL names, and `replay` delivers it from there."""
    dead = tmp_path / "dead.jsonl"
    bus = refused(f"{REFUSES}?max_series=10&dead_letters=jsonl:///{dead}")
    stats = bus.stats().lanes["prometheus"]
    assert (stats.delivered, stats.failed, stats.dead_lettered) == (2, 2, 2)
    assert [one.fields[0] for one in read_jsonl(dead) if one.kind == "metric"] == ["two", "four"]
    done = command("replay", str(dead), "--to", "sqlite:///again.db", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [one.fields[0] for one in read_sqlite(tmp_path / "again.db") if one.kind == "metric"] == ["two", "four"]


def test_the_environment_says_it_for_all_sinks_by_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One variable is enough, several lanes share the file; a URL that says another place goes before it."""
    monkeypatch.setenv("ELASTIC_EVENTS_DEAD_LETTERS", f"jsonl:///{tmp_path}/all.jsonl")
    refused(REFUSES, REFUSES, f"{REFUSES}?dead_letters=jsonl:///{tmp_path}/own.jsonl")
    assert sorted(one.fields[0] for one in read_jsonl(tmp_path / "all.jsonl") if one.kind == "metric") == [
        *("four", "four", "two", "two")
    ]
    assert [one.fields[0] for one in read_jsonl(tmp_path / "own.jsonl") if one.kind == "metric"] == ["two", "four"]
    assert EventBus(ListSink()).lanes[0].subscription.dead_letters is None


def test_for_another_process_all_places_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL for a collector names the files of this process's directory, and the dead letters of its environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ELASTIC_EVENTS_DEAD_LETTERS", "jsonl:///dead.jsonl?rotate=1MB")
    dead = f"dead_letters=jsonl:///{tmp_path}/dead.jsonl%3Frotate%3D1MB"
    assert absolute("sqlite:///run.db") == f"sqlite:///{tmp_path}/run.db?{dead}"
    assert absolute("sqlite:///run.db?max_age=1d") == f"sqlite:///{tmp_path}/run.db?max_age=1d&{dead}"
    again = absolute("nats://h/s?dead_letters=jsonl:///mine.jsonl&token=t")
    assert again == f"nats://h/s?token=t&dead_letters=jsonl:///{tmp_path}/mine.jsonl"
    assert absolute(again) == again
    assert open_url(again).target.secret == "t"  # type: ignore[attr-defined]
    kept = open_dead_letters(absolute("sqlite:///run.db"), {})
    assert (kept.path, kept.rotate) == (tmp_path / "dead.jsonl", 10**6)  # type: ignore[union-attr]
    assert absolute("wandb://p?mode=offline").startswith(
        f"wandb://p?mode=offline&dir={str(tmp_path).replace('/', '%2F')}"
    )
    monkeypatch.delenv("ELASTIC_EVENTS_DEAD_LETTERS")
    for stream in ("jsonl:stdout", "jsonl:-", "nats://h/s?dead_letters=jsonl:stderr"):
        assert absolute(stream) == stream


@pytest.mark.parametrize("dead", ["dead.jsonl", "nosuch://x", "jsonl:///missing/dead.jsonl"])
def test_a_wrong_place_is_told_at_the_start(dead: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dead letters that could never be kept are an error when a program starts, not when the first is lost."""
    from elastic_events.bus.subscription import check_url

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError):
        check_url(f"sqlite:///run.db?dead_letters={dead}")
