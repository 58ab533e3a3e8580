"""Sinks by URL: what each form names, and what a wrong one is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_events import sinks
from elastic_events.bus.bus import EventBus
from elastic_events.bus.errors import ConfigError, ElasticEventsError
from elastic_events.sinks.console import ConsoleSink
from elastic_events.sinks.jsonl import JsonlSink, read_jsonl
from elastic_events.sinks.sqlite import SqliteSink, read_sqlite
from elastic_events.sinks.urls import EXAMPLES, SCHEMES, absolute, open_url, parse_sinks


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///run.db", "run.db"),
        ("sqlite:////data/run.db", "/data/run.db"),
        ("sqlite:///a/b%20c%3F.db", "a/b c?.db"),
        ("SQLITE:///run.db", "run.db"),
        (" sqlite:///run.db\n", "run.db"),
        ("sqlite:run.db", "run.db"),
    ],
)
def test_three_slashes_are_relative_and_four_are_from_the_root(url: str, path: str) -> None:
    """A file's URL is read as SQLAlchemy reads it."""
    sink = open_url(url)
    assert isinstance(sink, SqliteSink)
    assert sink.path == Path(path).absolute()


def test_options_of_a_url_reach_the_sink() -> None:
    """Sizes, durations, numbers and flags are what they say."""
    sink = open_url("jsonl:///run.jsonl?rotate=64MB&rotate_every=1.5h&keep=5&gzip=off")
    assert isinstance(sink, JsonlSink)
    assert (sink.rotate, sink.rotate_every, sink.keep, sink.pack) == (64_000_000, 5400.0, 5, False)
    plain = open_url("jsonl:///run.jsonl")
    assert isinstance(plain, JsonlSink)
    assert (plain.rotate, plain.rotate_every, plain.keep, plain.pack) == (None, None, None, True)
    database = open_url("sqlite:///run.db?busy_timeout=500ms")
    assert isinstance(database, SqliteSink)
    assert database.timeout == 0.5


@pytest.mark.parametrize(
    ("url", "stream", "color"),
    [("console:", "stderr", None), ("console:stderr", "stderr", None), ("console:stdout?color=1", "stdout", True)],
)
def test_the_console_is_one_of_two(url: str, stream: str, color: bool | None) -> None:
    """A console URL names stderr, or stdout."""
    sink = open_url(url)
    assert isinstance(sink, ConsoleSink)
    assert (sink.stream, sink.color) == (stream, color)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("sqlit:///run.db", "did you mean sqlite"),
        ("postgres://host/db", "no sink is called 'postgres'; known are console:, jsonl:///run.jsonl, mlflow:"),
        ("run.db", "did you mean sqlite:///run.db"),
        ("logs/run.jsonl", "did you mean jsonl:///logs/run.jsonl"),
        ("", "is not a sink's URL"),
        ("sqlite", "is not a sink's URL"),
        ("sqlite:", "which file"),
        ("sqlite:///", "which file"),
        ("sqlite:///directory/", "which file"),
        ("sqlite:///nul%00", "which file"),
        ("sqlite://run.db", "write sqlite:///run.db"),
        ("sqlite:///run.db#1", "%23"),
        ("sqlite:///run.db?rotate=1", "no option 'rotate'; known are busy_timeout"),
        ("jsonl:///run.jsonl?rotate=64 parsecs", "rotate is a size such as 64MB"),
        ("jsonl:///run.jsonl?rotate=-1", "rotate is a size"),
        ("jsonl:///run.jsonl?rotate_every=daily", "rotate_every is a duration"),
        ("jsonl:///run.jsonl?keep=0", "keep is a whole number, 1 or more"),
        ("jsonl:///run.jsonl?keep=1&keep=2", "given twice"),
        ("jsonl:///run.jsonl?keep", "key=value"),
        ("jsonl:///run.jsonl?gzip=maybe", "gzip is 1 or 0"),
        ("console:printer", "console:stderr or console:stdout"),
        ("console://stderr", "console:stderr or console:stdout"),
        ("console:?colour=1", "no option 'colour'"),
        ("nats://[::1", "cannot be read"),
        ("otlp+grpc://host:4317", "over HTTP only, not gRPC: write otlp+http://HOST:4318"),
    ],
)
def test_a_wrong_url_says_what_is_wrong_and_what_is_known(url: str, sentence: str) -> None:
    """Every mistake gets one sentence that names it and what to write instead."""
    with pytest.raises(ConfigError) as caught:
        open_url(url)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["natz://me:hunter2@host/s", "me:hunter2@host", "hunter2@host", "sqlite://me:hunter2@host/x"]
)
def test_a_password_is_never_repeated(url: str) -> None:
    """F63: what a wrong URL is told ends in a log."""
    with pytest.raises(ConfigError) as caught:
        open_url(url)
    assert "hunter2" not in str(caught.value)


@given(st.text() | st.from_regex(r"(sqlite|jsonl|console)(:|://)[^\x00]*", fullmatch=True))
def test_no_text_is_answered_with_a_traceback(text: str) -> None:
    """Any text is a sink that was not opened, or one of our errors."""
    try:
        sink = open_url(text)
    except ElasticEventsError:
        return
    assert hasattr(sink, "write")


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("", []),
        (" ,\n", []),
        ("console:", ["console:"]),
        ("console:,sqlite:///run.db", ["console:", "sqlite:///run.db"]),
        ("nats://h1:4222,h2/st,console:", ["nats://h1:4222,h2/st", "console:"]),
        ("console:,sqlit:///x", ["console:", "sqlit:///x"]),
        (" console: \n sqlite:///run.db?busy_timeout=1s ,, ", ["console:", "sqlite:///run.db?busy_timeout=1s"]),
    ],
)
def test_the_variable_is_a_list(text: str, urls: list[str]) -> None:
    """ELASTIC_EVENTS_SINKS holds URLs between commas or white space."""
    assert parse_sinks(text) == urls


def test_every_scheme_has_an_example() -> None:
    """What an error lists as known can be copied."""
    assert set(EXAMPLES) == set(SCHEMES)
    assert all(example.startswith(f"{scheme}:") for scheme, example in EXAMPLES.items())


def test_a_bus_takes_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler may be a URL, relative to the working directory; both files hold the same."""
    monkeypatch.chdir(tmp_path)
    with EventBus("sqlite:///run.db", "jsonl:///run.jsonl") as bus:
        for step in range(10):
            bus.put_metric("loss", step)
    for records in (list(read_sqlite(tmp_path / "run.db")), list(read_jsonl("run.jsonl"))):
        assert [record.fields[0] for record in records if record.kind == "metric"] == list(range(10))
        assert records[-1].kind == "ledger"


def test_the_environment_names_sinks(tmp_path: Path) -> None:
    """`start()` without handlers takes ELASTIC_EVENTS_SINKS; a wrong one is a sentence, not a traceback of ours."""
    script = """
import elastic_events, elastic_metrics
try:
    elastic_events.start()
except elastic_events.ConfigError as error:
    print(error)
else:
    elastic_metrics.put_metric("loss", 1.0)
    elastic_events.stop()
"""

    def run(value: str) -> str:
        environment = {**os.environ, "ELASTIC_EVENTS_SINKS": value, "PYTHONPATH": os.pathsep.join(sys.path)}
        call = [sys.executable, "-c", script]
        return subprocess.run(
            call, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True, timeout=30
        ).stdout

    assert run("sqlite:///run.db jsonl:///run.jsonl") == ""
    assert len(list(read_sqlite(tmp_path / "run.db"))) == 2
    assert "no sink is called 'sqlit', did you mean sqlite" in run("sqlit:///run.db")


def test_no_sink_is_imported_before_it_is_named() -> None:
    """Importing the package of sinks imports none, and every public name is there."""
    script = """
import sys, elastic_events.sinks
found = [name for name in sys.modules if name.startswith("elastic_events.sinks.") or name == "sqlite3"]
assert not found, found
elastic_events.sinks.open_url("console:")
assert "sqlite3" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)
    assert list(sinks.__all__) == sorted(sinks.__all__)
    assert all(getattr(sinks, name) for name in sinks.__all__)
    with pytest.raises(AttributeError):
        _ = sinks.nothing


def test_a_directory_whose_name_is_no_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The URL of a file in it names that file from every directory; nothing is raised."""
    odd = tmp_path / os.fsdecode(b"\xe9\xff %")
    odd.mkdir()
    monkeypatch.chdir(odd)
    assert Path(open_url(absolute("sqlite:///run.db")).path) == odd / "run.db"  # type: ignore[attr-defined]


@pytest.mark.parametrize("url", ["sqlite:run.db", "sqlite:/run.db", "sqlite:///run.db", "jsonl:///a%20b.jsonl?keep=5"])
def test_a_file_is_the_same_from_every_directory(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL that goes to another process names the file that it names here, whatever the directory there."""
    monkeypatch.chdir(tmp_path)
    before = Path(open_url(url).path).absolute()  # type: ignore[attr-defined]
    moved = absolute(url)
    monkeypatch.chdir("/")
    assert Path(open_url(moved).path) == before  # type: ignore[attr-defined]
    assert absolute(moved) == moved
    assert absolute("nats://host:4222/stream") == "nats://host:4222/stream"


@pytest.mark.parametrize("drain", ["thread", "process"])
def test_a_cell_that_is_run_again_writes_once(drain: str, tmp_path: Path) -> None:
    """`start` with a URL that it has already, as by a cell of a notebook, adds no second lane; another URL is one."""
    code = f"""
import elastic_events
from elastic_metrics import put_metric
for _ in range(3):
    elastic_events.start("jsonl:///run.jsonl", drain={drain!r})
    put_metric("m", 1)
elastic_events.start("jsonl:///{tmp_path}/run.jsonl", "jsonl:///other.jsonl")
put_metric("m", 2)
elastic_events.stop()
"""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ELASTIC_EVENTS_")}
    environ = {**kept, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    values = {}
    for name in ("run", "other"):
        values[name] = [one.fields[0] for one in read_jsonl(tmp_path / f"{name}.jsonl") if one.kind == "metric"]
    assert values["run"] == [1, 1, 1, 2]
    assert values["other"].count(2) == 1  # a collector may give it what was recorded just before, too
