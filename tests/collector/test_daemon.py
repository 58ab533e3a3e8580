"""The collector's loop, taken apart."""

from pathlib import Path

import msgspec

from elastic_events.bus.context import read_context
from elastic_events.recorder.daemon import Daemon, Run
from elastic_events.recorder.directory import take
from elastic_events.recorder.reader import RecorderReader
from elastic_events.recorder.request import Request, submit
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
