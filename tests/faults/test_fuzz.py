"""Bytes and texts that nobody of this package wrote, where it reads: refused or passed over, never an exception."""

from typing import Any
from zlib import crc32

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elastic_events.bus.context import Context
from elastic_events.bus.errors import InputError
from elastic_events.recorder.format import START, read_header
from elastic_events.recorder.page import BODY, MAGIC, PageReader, Standing
from elastic_events.recorder.reader import RecorderReader
from elastic_events.recorder.request import Request, read_requests
from elastic_events.recorder.writer import open_rings
from elastic_events.torchrun.messages import parse

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)
packed = values.map(msgspec.msgpack.encode)

#: A frame whose checksum is right: of another version, say.
frames = st.binary(max_size=900) | packed | st.lists(values, min_size=5, max_size=14).map(msgspec.msgpack.encode)

few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def with_crc(body: bytes) -> bytes:
    """Return what stands before a body, and the body."""
    return len(body).to_bytes(4, "little") + crc32(body).to_bytes(4, "little") + body


@few
@given(st.lists(st.tuples(st.booleans(), frames), min_size=1, max_size=8))
def test_a_frame_of_anything_costs_itself_alone(
    tmp_path_factory: pytest.TempPathFactory, stored: list[tuple[bool, bytes]]
) -> None:
    """F68: whatever a slot holds, the whole records of a ring are read, and what is none is counted."""
    folder = tmp_path_factory.mktemp("rings") / "recorders"
    rings = open_rings(folder, Context("run", "p-1-x"), 64)
    good = 0
    for is_good, frame in stored:
        store, ring = rings[0].pipe[1], rings[0]
        seq = ring.pipe[0]()
        good += is_good
        store[seq] = msgspec.msgpack.encode((seq, 1, "good", "null", "WORKER", 0, {})) if is_good else frame  # type: ignore[index]
    rings[0].close()
    reader = RecorderReader(rings[0].path)
    found = list(reader.rest())
    assert sum(one.name == "good" for one in found) >= good
    for one in found:
        repr((one.event, one.metric, one.id))
    assert len(found) + sum(reader.lost.values()) >= good


@few
@given(packed | st.binary(max_size=200))
def test_a_header_of_anything_is_refused(body: bytes) -> None:
    """F68, F72: a header that is whole by its checksum and none of ours is refused in a sentence."""
    with pytest.raises(InputError):
        read_header((b"ELEVREC1" + with_crc(body)).ljust(START, b"\0"))


@few
@given(packed | st.binary(max_size=200))
def test_a_page_of_anything_says_nothing(tmp_path_factory: pytest.TempPathFactory, body: bytes) -> None:
    """F68: a page that is none is as if there were none; no program ends for it."""
    folder = tmp_path_factory.mktemp("page")
    (folder / ".page").write_bytes((MAGIC + bytes(8) + with_crc(body)).ljust(BODY + 300, b"\0"))
    reader = PageReader(folder)
    assert isinstance(reader.read(), Standing | None)
    reader.close()


@few
@given(packed | st.binary(max_size=200) | values.map(lambda value: msgspec.json.encode({"url": value, "run_id": "r"})))
def test_a_request_of_anything_is_told(tmp_path_factory: pytest.TempPathFactory, body: bytes) -> None:
    """F68: a file that is no request is told in a sentence, and the others are served."""
    folder = tmp_path_factory.mktemp("requests")
    (folder / ".requests").mkdir()
    (folder / ".requests" / "1.json").write_bytes(body)
    (folder / ".requests" / "2.json").write_bytes(msgspec.json.encode(Request("jsonl:///a", "r")))
    found, wrong = read_requests(folder, {})
    assert Request("jsonl:///a", "r").key in found
    assert len(found) + len(wrong) >= 2 or Request("jsonl:///a", "r") in found.values()


NAMES = st.text(max_size=8) | st.sampled_from(["'", "' has joined round 1 of the rendezvous '", "1" * 5000, "٣", "\n"])


@settings(max_examples=150, deadline=None)
@given(NAMES, NAMES, NAMES, st.sampled_from(["joined", "complete", "removed", "store", "failed", "text"]))
def test_a_sentence_with_anything_in_it_is_parsed_or_left(node: str, run: str, number: str, which: str) -> None:
    """Whatever torch's rendezvous, a run id or a host name puts into a sentence, it is understood, or None: nothing is raised."""
    sentences: dict[str, Any] = {
        "joined": f"The node '{node}' has joined round {number} of the rendezvous '{run}' as rank {number} in a world of size 2.",
        "complete": f"The node '{node}' marked round {number} of the rendezvous '{run}' as complete. Pending sync.",
        "removed": f"As part of the sync operation the node(s) {node} have been removed from the rendezvous '{run}' "
        "since they had no heartbeat.",
        "store": f"Process {number} hosts the TCP store for the C10d rendezvous backend.",
        "failed": f"{node}Error: {run}",
        "text": node + run,
    }
    parse(sentences[which])
