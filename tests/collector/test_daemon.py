"""The collector's loop, taken apart."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from elastic_events.bus.context import read_context
from elastic_events.recorder.daemon import Daemon, Run
from elastic_events.recorder.directory import FIFO, secure, take
from elastic_events.recorder.page import PageReader
from elastic_events.recorder.reader import RecorderReader
from elastic_events.recorder.request import Request, submit
from elastic_events.recorder.served import Late
from elastic_events.recorder.writer import open_rings


def test_a_sink_that_was_just_asked_for_misses_nothing(tmp_path: Path) -> None:
    """A file that asks for a sink of which the collector does not know yet is left until it does, though others want it."""
    directory = tmp_path / "recorders"
    context = msgspec.structs.replace(read_context({}), run_id="job")
    all_of_it = Request(f"jsonl:///{tmp_path}/all.jsonl", "job", everyone=True)
    own = Request(f"jsonl:///{tmp_path}/own.jsonl", "job")
    events, _metrics = open_rings(directory, context)
    lock = take(directory)
    assert lock is not None
    daemon = Daemon(directory, lock)
    run = daemon._runs["job"] = Run("job", directory, lambda _sentence: None)
    for request in (all_of_it, own):
        submit(directory, request)
    run.add(all_of_it)
    daemon.known[all_of_it.key] = all_of_it
    reader = RecorderReader(events.path)
    assert daemon._outlet(reader) is not None
    events.file.request(own.key)
    assert daemon._outlet(reader) is None
    daemon.known[own.key] = own
    run.add(own)
    outlet = daemon._outlet(reader)
    assert outlet is not None
    assert len(outlet[0]) == 2
    daemon._end()
    events.file.close()


def test_a_collector_that_nobody_can_wake_says_how_it_stands(tmp_path: Path) -> None:
    """Beside a plain file where its FIFO is to be it has its page all the same: who is served waits for what that says."""
    directory = tmp_path / "recorders"
    secure(directory)
    (directory / FIFO).touch()
    lock = take(directory)
    assert lock is not None
    daemon = Daemon(directory, lock)
    page = PageReader(directory)
    daemon._note()
    assert page.read() is not None
    page.close()
    daemon._end()


@pytest.fixture
def environment() -> Iterator[None]:
    """Have the environment afterwards as it was."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.usefixtures("environment")
def test_a_sink_has_the_environment_of_who_asked(tmp_path: Path) -> None:
    """What sinks read of the environment, at once, late or as they write, is as the program has it, not as the collector."""
    os.environ.update({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://of-the-collector:1", "OTEL_EXPORTER_OTLP_HEADERS": "a=b"})
    asked = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://of-the-program:1", "MLFLOW_TRACKING_TOKEN": "t"}
    request = Request("otlp+http:", "job", environ=asked)
    run = Run("job", tmp_path / "recorders", lambda _what, _sentence: None)
    at_once: Any = run.add(request).sink
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://of-another:1"
    late = Late(request)
    anyio.run(late.open)
    for sink in (at_once, late._sink):
        assert sink.settings.logs == "http://of-the-program:1/v1/logs"
        assert sink.settings.logs_headers == {}
    assert os.environ["MLFLOW_TRACKING_TOKEN"] == "t"
    assert "OTEL_EXPORTER_OTLP_HEADERS" not in os.environ
    anyio.run(late.aclose)
