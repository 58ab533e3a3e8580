"""The layout of a recorder file.

::

    0      magic "ELEVREC1", header length (u32), CRC-32 of the header (u32), header (msgpack of `Header`)
    2048   events collected up to (u64), metrics collected up to (u64)      written by the collector
    2064   1 when the process closed its rings in order (u64)               written by the process at its end
    4096   slots of the events ring, slots of the metrics ring, blocks for long records

A slot is one u64 word, then the frame. The word is `length << 32 | crc32(frame)`, and is written last: a slot whose frame
does not match its word was torn by the death of its writer, or is being written. The frame begins with its own sequence
number, which the CRC covers therefore, so that an old lap cannot be taken for a new one. A frame longer than its slot is
stored in a block of its own; the slot then holds the block's number, and its length has the `LONG` bit. Native byte order: a
file is read on the host that wrote it.
"""

import mmap
from zlib import crc32

import msgspec

from elastic_events.bus.context import Context
from elastic_events.bus.errors import InputError

__all__ = (
    "BLOCK",
    "EVENT_SLOT",
    "LONG",
    "METRIC_SLOT",
    "Geometry",
    "Header",
    "OtherVersionError",
    "pack_header",
    "read_header",
)

MAGIC = b"ELEVREC1"
VERSION = 1
COLLECTED = 2048
CLOSED = 2064
START = 4096

EVENT_SLOT = 512
METRIC_SLOT = 128
BLOCK = 16_384
LONG = 1 << 31


class OtherVersionError(InputError):
    """A recorder file of another version of this package: none of ours to judge."""


class Header(msgspec.Struct, frozen=True):
    """What a reader must know before it reads a slot."""

    version: int
    capacity: int  #: slots of each ring
    blocks: int  #: blocks for long records
    context: Context
    boot_id: str  #: monotonic clocks of different boots cannot be compared
    time_ns: int  #: wall clock when the file was made, and
    monotonic_ns: int  #: the monotonic clock at that moment


class Geometry:
    """Where things lie in a file of this capacity."""

    def __init__(self, capacity: int, blocks: int) -> None:
        self.capacity = capacity
        self.blocks = blocks
        self.rings = (START, START + capacity * EVENT_SLOT)
        self.slots = (EVENT_SLOT, METRIC_SLOT)
        self.spill = START + capacity * (EVENT_SLOT + METRIC_SLOT)
        self.size = self.spill + blocks * BLOCK


def pack_header(header: Header) -> bytes:
    """Return the first bytes of a file."""
    body = msgspec.msgpack.encode(header)
    if len(body) > COLLECTED - 16:
        raise InputError("the context does not fit the header of a recorder file: shorten ROLE_NAME or the run id")
    return MAGIC + len(body).to_bytes(4, "little") + crc32(body).to_bytes(4, "little") + body


def read_header(data: "mmap.mmap | bytes") -> Header:
    """Return the header of a file.

    Raises:
        OtherVersionError: it is one of another version.
        InputError: it is no recorder file, or a damaged one.
    """
    if len(data) < START or data[: len(MAGIC)] != MAGIC:
        raise InputError("not a flight recorder file")
    length, crc = int.from_bytes(data[8:12], "little"), int.from_bytes(data[12:16], "little")
    body = bytes(data[16 : 16 + min(length, START)])
    if crc32(body) != crc:
        raise InputError("the header of this recorder file is damaged")
    try:
        version = msgspec.msgpack.decode(body).get("version")
        if version != VERSION:
            raise OtherVersionError(f"a recorder file of version {version}; this package reads version {VERSION}")
        header = msgspec.msgpack.decode(body, type=Header)
    except (msgspec.MsgspecError, AttributeError) as error:
        raise InputError(f"the header of this recorder file is damaged: {error}") from error
    good = header.capacity >= 2 and not header.capacity & (header.capacity - 1) and header.blocks > 0
    if not good or len(data) < Geometry(header.capacity, header.blocks).size:
        raise InputError("this recorder file is shorter than its header says")
    return header
