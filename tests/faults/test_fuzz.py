"""Bytes and texts that nobody of this package wrote, where it reads: refused or passed over, never an exception."""

from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elastic_events.bus.context import Context
from elastic_events.bus.errors import InputError
from elastic_events.bus.record import Record
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


def read_with(folder: Path, stored: list[bytes | None]) -> list[Record]:
    """Return what is read of a ring that holds these frames, and whole records for None."""
    ring, _ = open_rings(folder, Context("run", "p-1-x"), 64)
    number, slots = ring.pipe[0], ring.pipe[1]
    for frame in stored:
        seq = number()
        slots[seq] = frame or msgspec.msgpack.encode((seq, 1, "good", "null", "WORKER", 0, {}))  # type: ignore[index]
    ring.close()
    return list(RecorderReader(ring.path).rest())


@few
@given(st.lists(st.none() | frames, min_size=1, max_size=8))
def test_a_ring_of_anything_is_read_to_its_end(
    tmp_path_factory: pytest.TempPathFactory, stored: list[bytes | None]
) -> None:
    """F68: whatever the slots hold, reading ends and raises nothing, nor does what was read."""
    for one in read_with(tmp_path_factory.mktemp("rings") / "recorders", stored):
        repr((one.event, one.metric, one.id))


@pytest.mark.parametrize(
    "seq", [float("inf"), float("nan"), 1e300, "a", None, True, -5, 66, 2**63, 2**63 + 1, 2**64 - 1]
)
def test_a_sequence_that_cannot_be_costs_one_record(tmp_path: Path, seq: object) -> None:
    """F68: a frame that is whole by its checksum, with a sequence that is none or not its slot's, takes no other with it."""
    frame = msgspec.msgpack.encode((seq, 1, "bad", "null", "WORKER", 0, {}))
    found = read_with(tmp_path / "recorders", [None, frame, None])
    assert [one.name for one in found if one.name == "good"] == ["good", "good"]


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
