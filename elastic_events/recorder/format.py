"""The layout of a recorder file.

::

    0      magic "ELEVREC1", header length (u32), CRC-32 of the header (u32), header (msgpack of `Header`)
    2048   words (u64) of the collector, see `WORDS`
    2560   1 when the process closed its rings in order (u64)               written by the process, as is
    2568   keys of the requests that want its records (u64 each, 0 = none)  up to `REQUESTS` of them
    4096   events: slots, then small and large blocks for long records; metrics: likewise

A slot is one u64 word, then the frame. The word is `length << 32 | crc32(frame)`, and is written last: a slot whose frame
does not match its word was torn by the death of its writer, or is being written. The frame begins with its own sequence
number, which the CRC covers therefore, so that an old lap cannot be taken for a new one. A frame longer than its slot is
stored in a block of its own, a small one if it fits; the slot then holds the block's number, and its length has the `LONG` bit.
Native byte order: a file is read on the host that wrote it. Version 2, which is read, too, has large blocks only.
"""

import mmap
from typing import NamedTuple
from zlib import crc32

import msgspec

from elastic_events.bus.context import Context
from elastic_events.bus.errors import ConfigError, InputError

__all__ = (
    "BLOCK",
    "CLOSED",
    "EVENTS",
    "EVENT_SLOT",
    "LONG",
    "LOSSES",
    "METRICS",
    "REQUESTED",
    "REQUESTS",
    "SMALL_BLOCK",
    "WORDS",
    "Geometry",
    "Header",
    "OtherVersionError",
    "RingShape",
    "Spill",
    "pack_header",
    "read_header",
    "shapes_of",
)

MAGIC = b"ELEVREC1"
VERSION = 3
_READS = (2, 3)
WORDS_AT = 2048
CLOSED = 2560
REQUESTED = 2568
REQUESTS = 184
START = 4096

EVENT_SLOT = 512
METRIC_SLOT = 128
SMALL_BLOCK = 2048
BLOCK = 16_384
LONG = 1 << 31

#: Why a record was lost before a collector could read it.
LOSSES = ("overwritten", "interrupted", "undecodable")

#: The collector's words, in order, the first of each pair for events. `safe`: no later collector needs what is before;
#: `settled`: every lane has delivered, refused or filtered it; the others count what was lost of that.
WORDS = ("safe", "settled", *LOSSES)


class OtherVersionError(InputError):
    """A recorder file of another version of this package: none of ours to judge."""


class RingShape(msgspec.Struct, frozen=True, array_like=True):
    """How much of one ring a file holds."""

    capacity: int  #: slots, a power of two
    slot: int  #: bytes of a slot
    blocks: int  #: large blocks for records longer than a slot
    small: int = 0  #: small ones


#: What a burst writes before a collector has started, or between two of its looks: 8 MiB of events, 4 of metrics. Of torch's
#: own events one in two is longer than a slot, and hardly one than a small block.
EVENTS = RingShape(16_384, EVENT_SLOT, 256, 2048)
METRICS = RingShape(32_768, METRIC_SLOT, 32, 512)


class Header(msgspec.Struct, frozen=True):
    """What a reader must know before it reads a slot."""

    version: int
    shapes: tuple[RingShape, RingShape]  #: of events and metrics
    context: Context
    boot_id: str  #: monotonic clocks of different boots cannot be compared
    pid_namespace: str  #: pids of different ones cannot be compared; "" where it is not known
    time_ns: int  #: wall clock when the file was made, and
    monotonic_ns: int  #: the monotonic clock at that moment
    source: str = "WORKER"  #: who writes: "WORKER" or "AGENT"


class Spill(NamedTuple):
    """Where the long records of a ring lie."""

    small_at: int
    small: int
    large_at: int
    large: int

    def of(self, length: int) -> tuple[int, int, int]:
        """Return where the blocks for frames of `length` bytes begin, the size of one, and how many there are."""
        if self.small and length <= SMALL_BLOCK:
            return self.small_at, SMALL_BLOCK, self.small
        return self.large_at, BLOCK, self.large


class Geometry:
    """Where things lie in a file of these shapes."""

    def __init__(self, shapes: tuple[RingShape, RingShape]) -> None:
        self.shapes = shapes
        self.slots: list[int] = []  #: where each ring's slots begin
        self.spill: list[Spill] = []
        at = START
        for shape in shapes:
            self.slots.append(at)
            at += shape.capacity * shape.slot
            large = at + shape.small * SMALL_BLOCK
            self.spill.append(Spill(at, shape.small, large, shape.blocks))
            at = large + shape.blocks * BLOCK
        self.size = at


def shapes_of(capacity: int | None) -> tuple[RingShape, RingShape]:
    """Return the shapes of rings of `capacity` slots each; None for the default."""
    if capacity is None:
        return EVENTS, METRICS
    if capacity < 2 or capacity & (capacity - 1):
        raise ConfigError(f"capacity must be a power of two, such as 16384; it is {capacity}")
    small = max(capacity // 8, 16)
    return RingShape(capacity, EVENT_SLOT, 64, small), RingShape(capacity, METRIC_SLOT, 16, small // 2)


def pack_header(header: Header) -> bytes:
    """Return the first bytes of a file."""
    body = msgspec.msgpack.encode(header)
    if len(body) > WORDS_AT - 16:
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
        if version not in _READS:
            known = " and ".join(map(str, _READS))
            raise OtherVersionError(f"a recorder file of version {version}; this package reads versions {known}")
        header = msgspec.msgpack.decode(body, type=Header)
    except (ValueError, AttributeError, RecursionError) as error:  # msgspec's errors, and that of text, are ValueErrors
        raise InputError(f"the header of this recorder file is damaged: {error}") from error
    if not all(map(_possible, header.shapes)) or len(data) < Geometry(header.shapes).size:
        raise InputError("this recorder file is shorter than its header says")
    return header


def _possible(shape: RingShape) -> bool:
    power = shape.capacity >= 2 and not shape.capacity & (shape.capacity - 1)
    return power and shape.blocks > 0 and shape.small >= 0 and shape.slot >= 64 and shape.slot % 8 == 0
