"""JSON Lines to stdout and to FIFOs, as containers' logs are made."""

import json
import os
import select
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from elastic_events.bus.errors import ConfigError
from elastic_events.bus.record import Record
from elastic_events.bus.subscription import check_url
from elastic_events.recorder.link import Link
from elastic_events.sinks.console import ConsoleSink
from elastic_events.sinks.jsonl import JsonlSink
from elastic_events.sinks.jsonl_stream import JsonlStream
from elastic_events.sinks.stored import from_json
from elastic_events.sinks.urls import open_url
from tests.sinks.factory import metrics

SCRIPT = """
import sys
import elastic_metrics
from elastic_events import EventBus
with EventBus(sys.argv[1]) as bus:
    for step in range(2000):
        bus.put_metric("loss", step)
        if step % 500 == 0:
            assert bus.flush_sync(20)
"""


@pytest.mark.parametrize("url", ["jsonl:stdout", "jsonl:-", "jsonl:////dev/stdout", "jsonl:////proc/self/fd/1"])
def test_a_container_has_json_on_its_stdout(url: str) -> None:
    """Each record is one line of JSON on stdout, a pipe here, all of them in order and nothing else."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, url], capture_output=True, check=True, timeout=60
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["value"] for line in lines if line["kind"] == "metric"] == list(range(2000))
    assert lines[-1]["kind"] == "ledger"
    assert done.stderr == b""


def test_lines_stay_whole_in_a_pipe_that_others_write_to() -> None:
    """Workers, launcher and script share a container's stdout: while its reader is slow, no line is cut by another's."""
    reader, writer = os.pipe()
    batches = [metrics(2000), metrics(2000, start=2000)]
    sinks = [JsonlStream(writer), ConsoleSink(writer, color=False)]

    def write(sink: ConsoleSink, batch: list[Record]) -> None:
        sink.open_now()
        for start in range(0, len(batch), 500):
            sink.write_now(batch[start : start + 500])
        sink.close_now()

    found = bytearray()
    with ThreadPoolExecutor() as pool:
        done = [pool.submit(write, *one) for one in zip(sinks, batches, strict=True)]
        while not all(one.done() for one in done) or select.select([reader], [], [], 0)[0]:
            if select.select([reader], [], [], 0.01)[0]:
                found += os.read(reader, 3000)
    for one in done:
        one.result()
    os.close(reader)
    os.close(writer)
    lines = found.splitlines()
    stored = [line for line in lines if line.startswith(b"{")]
    assert [from_json(line).id for line in stored] == [record.id for record in batches[0]]
    assert [line for line in lines if line not in stored] == ConsoleSink(color=False).lines(batches[1]).splitlines()


def test_stderr_is_a_stream_too() -> None:
    """`jsonl:stderr` writes there."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, "jsonl:stderr"], capture_output=True, check=True, timeout=60)
    assert done.stderr.count(b"\n") == 2001
    assert done.stdout == b""


def test_a_fifo_is_opened_before_its_reader_and_outlives_it(tmp_path: Path) -> None:
    """What is written before anybody reads waits; a second reader gets what came after the first one left."""
    path = tmp_path / "log"
    os.mkfifo(path)
    with pytest.raises(ConfigError, match=r"write jsonl:///.*\?fifo=1"):
        JsonlSink(path).open_now()
    sink = open_url(f"jsonl:///{path}?fifo=1")
    assert isinstance(sink, JsonlStream)
    sink.open_now()
    try:
        for part in (metrics(10), metrics(10, start=10)):
            sink.write_now(part)
            reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            lines = os.read(reader, 1 << 16).splitlines()
            os.close(reader)
            assert [from_json(line).id for line in lines] == [record.id for record in part]
    finally:
        sink.close_now()


def test_a_path_is_looked_at_where_it_is_named(tmp_path: Path) -> None:
    """A stream is not looked at, a FIFO has to be one, and a FIFO that is named as a file is told how to be named."""
    os.mkfifo(tmp_path / "log")
    (tmp_path / "file").touch()
    for url in ("jsonl:stdout", "jsonl:////dev/stdout", "jsonl:////dev/fd/77", f"jsonl:///{tmp_path}/log?fifo=1"):
        check_url(url)
    for url, told in (
        (f"jsonl:///{tmp_path}/log", r"write jsonl:///.*\?fifo=1"),
        (f"jsonl:///{tmp_path}/file?fifo=1", "is no FIFO"),
        (f"jsonl:///{tmp_path}/none?fifo=1", "No such file"),
    ):
        with pytest.raises(ConfigError, match=told):
            check_url(url)


def test_a_stream_is_this_process_s_own() -> None:
    """No collector process takes a stream, which would be its own; it takes files, one called stdout too, and FIFOs."""
    for url in ("jsonl:stdout", "jsonl:stderr", "jsonl:-", "jsonl:stdout?x=1", "jsonl:////dev/stdout", "console:"):
        assert not Link.takes(url)
    for url in ("jsonl:///stdout", "jsonl:////a/fifo?fifo=1", "tls://h:4222/s", "sqlite:////dev/shm/run.db"):
        assert Link.takes(url)
    sink = open_url("jsonl:///stdout")
    assert isinstance(sink, JsonlSink)
    assert sink.path == Path("stdout").absolute()


def test_dead_letters_to_a_stream_are_this_process_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector process would write them to a log that nobody reads, and count them as kept."""
    for dead in ("console:", "jsonl:stderr", "jsonl:////dev/stdout", "own:x"):
        assert not Link.takes(f"sqlite:///run.db?max_age=7d&dead_letters={dead}")
    assert Link.takes("sqlite:///run.db?dead_letters=jsonl:///dead.jsonl")
    monkeypatch.setenv("ELASTIC_EVENTS_DEAD_LETTERS", "jsonl:stderr")
    assert not Link.takes("sqlite:///run.db")
    assert Link.takes("sqlite:///run.db?dead_letters=jsonl:///dead.jsonl")


def test_a_stream_takes_no_options_and_a_file_stays_one(tmp_path: Path) -> None:
    """Rotation of a stream is an error that says so; a file is what it was."""
    with pytest.raises(ConfigError, match="no option 'rotate'"):
        open_url("jsonl:stdout?rotate=1MB")
    assert isinstance(open_url(f"jsonl:///{tmp_path}/run.jsonl"), JsonlSink)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is no FIFO"):
        JsonlStream(tmp_path / "file").open_now()
    with pytest.raises(ConfigError, match="jsonl: this process has no descriptor 999999"):
        JsonlStream(999_999).open_now()


def test_a_closed_stream_is_called_by_its_name() -> None:
    """Where the reader of stdout has gone, the sentence says stdout, and not 1."""
    code = (
        "import elastic_events\nwith elastic_events.EventBus('jsonl:stdout'):\n"
        "    elastic_events.record(elastic_events.Event('a', elastic_events.EventSource.WORKER))\n"
    )
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=True
    )
    os.close(write)
    assert "PermanentError: nobody reads stdout any more" in done.stderr
