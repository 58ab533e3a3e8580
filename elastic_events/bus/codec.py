"""Frames: msgpack, encoded by the emitter, decoded once by the drain.

A frame is one array that begins with `sequence, monotonic_ns, name, channel`; what follows is the kind's own payload,
and its length tells the kind (see `Record.fields`). Encoding is total: whatever a caller puts into a record, some frame
comes out, and nothing of the caller's is executed on the way but what `numpy` and `torch` do for a number.
"""

import sys
from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from elastic_events.bus.record import EventRecord, Kind, MetricRecord, Record
from elastic_events.bus.redact import Redactor
from elastic_events.bus.walk import Walk, plain

__all__ = ("DECODE_FLAT", "KINDS", "LIMIT", "decode", "encode", "encode_hard", "plain")

#: Bytes of a frame; a longer record is cut. A ring's memory is at most its capacity times this.
LIMIT = 16_384

#: Length of a frame's array -> kind.
KINDS: dict[int, Kind] = {5: "metric", 7: "event", 13: "rdzv"}

# No enc_hook: the fast path must never run Python code, which could mutate the dict that is being walked.
# What msgspec knows besides (dataclasses, dates) it encodes in C; a Decimal is a number there, too.
encode: Callable[[Any], bytes] = msgspec.msgpack.Encoder(decimal_format="number").encode
decode: Callable[[bytes], tuple[Any, ...]] = msgspec.msgpack.Decoder(tuple).decode

_Flat = str | int | Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)] | bool | None

#: First byte of a frame, which tells the length of its array -> what makes the record of a metric of a number, or of an event
#: whose metadata hold texts and numbers, all finite, as nearly all do, and refuses others. What they weigh, and that strict
#: JSON has them as they are, is known then. Only for frames that begin with this byte: a longer one would say who speaks.
DECODE_FLAT: dict[int, Callable[[bytes], Record]] = {
    0x95: msgspec.msgpack.Decoder(MetricRecord[_Flat]).decode,
    0x97: msgspec.msgpack.Decoder(EventRecord[_Flat]).decode,
}


def encode_hard(frame: tuple[Any, ...], redactor: Redactor | None = None, *, strict: bool = False) -> bytes:
    """Encode a frame that `encode` refused or that came out too long, without the secrets that `redactor` finds.

    In a time that is bounded whatever the values are. Never raises, unless `strict`.

    Raises:
        MetadataError: `strict` and a value that JSON cannot hold.
    """
    for room in (LIMIT - 64, LIMIT // 2):  # the second if a cost was estimated too low
        walk = Walk(redactor, room=room, strict=strict)
        data = encode((*frame[:2], *walk.fields(frame[2:])))
        if len(data) <= LIMIT:
            return data
    raise OverflowError
