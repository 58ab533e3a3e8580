"""Frames: msgpack, encoded by the emitter, decoded once by the drain.

A frame is one array that begins with `sequence, monotonic_ns, name, channel`; what follows is the kind's own payload,
and its length tells the kind (see `Record.fields`). Encoding is total: whatever a caller puts into a record, some frame
comes out, and nothing of the caller's is executed on the way but what `numpy` and `torch` do for a number.
"""

import dataclasses
import datetime
import decimal
import enum
import pathlib
import sys
import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from elastic_events.bus.errors import MetadataError
from elastic_events.bus.record import Kind
from elastic_events.bus.redact import REDACTED, cut_secrets, nothing, redact_arguments

__all__ = ("KINDS", "LIMIT", "decode", "encode", "encode_hard", "plain")

#: Bytes of a frame; a longer record is truncated. A ring's memory is at most its capacity times this.
LIMIT = 16_384

#: Length of a frame's array -> kind.
KINDS: dict[int, Kind] = {5: "metric", 7: "event", 13: "rdzv"}

#: Characters behind a cut that are looked at for a secret that begins before it.
_MARGIN = 512

_DEPTH = 16
_ITEMS = 4096
_PLAIN = frozenset({type(None), bool, float})
_NUMBER_64 = range(-(2**63), 2**64)

# No enc_hook: the fast path must never run Python code, which could mutate the dict that is being walked.
encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(tuple).decode


def encode_hard(frame: tuple[Any, ...], is_secret: Callable[[str], bool] = nothing, *, strict: bool = False) -> bytes:
    """Encode a frame that `encode` refused or that came out too long, without what stands under secret keys.

    Never raises, unless `strict`.

    Raises:
        MetadataError: `strict` and a value that JSON cannot hold.
    """
    walk = Walk(is_secret, strict=strict)
    head, rest = frame[:2], [walk.plain(value) for value in frame[2:]]
    data = encode((*head, *rest))
    # Cut strings and containers harder until it fits; the marker says how long the record was.
    for cut in (4096, 1024, 128, 16):
        if len(data) <= LIMIT:
            break
        walk = Walk(is_secret, cut=cut)
        shorter = [walk.plain(value) for value in frame[2:]]
        if isinstance(shorter[-1], dict):
            shorter[-1]["truncated_bytes"] = len(data)
        last, data = len(data), encode((*head, *shorter))
        if cut == 16 and len(data) > LIMIT:  # thousands of short items: keep the name, say how much is gone
            data = encode(
                (*head, *(value if len(str(value)) < 64 else f"[truncated: {last} bytes]" for value in shorter))
            )
    return data


def plain(value: Any) -> Any:
    """Return `value` as None, bool, int, float, str, list and dict; see `Walk`."""
    return Walk().plain(value)


class Walk:
    """One pass over a caller's value, to what msgpack and JSON can hold. Bounded in depth and items; runs no user code.

    Subclasses of builtins are read through the builtin's own methods, objects of unknown classes become `<module.Class>`:
    their `__str__` could raise, sleep or emit (F59).
    """

    def __init__(
        self, is_secret: Callable[[str], bool] = nothing, *, cut: int | None = None, strict: bool = False
    ) -> None:
        self.is_secret = is_secret
        self.cut = cut
        self.strict = strict
        self.items_left = _ITEMS if cut is None else cut * 4

    def plain(self, value: Any, depth: int = 0) -> Any:  # noqa: PLR0911 - one table of types
        """Return the plain form of `value`."""
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is str:
            return self.text(value)
        if kind is int:
            return value if value in _NUMBER_64 else self.text(_big(value))
        if depth >= _DEPTH:
            return "[too deep]"
        if issubclass(kind, dict):
            return self.mapping(list(dict.items(value)), depth)
        if issubclass(kind, (list, tuple, set, frozenset)):
            return self.sequence(list(_builtin(kind).__iter__(value)), depth)
        return self.scalar(value, kind, depth)

    def mapping(self, items: list[tuple[Any, Any]], depth: int) -> dict[Any, Any]:
        """Return the dict of `items`; keys stay apart as they were: 1 and "1" are two keys (F60)."""
        result: dict[Any, Any] = {}
        kept = self.take(len(items))
        for key, value in items[:kept]:
            name = key if type(key) in (int, float, bool, type(None)) and _fits(key) else self.key(key)
            while name in result:
                name = f"{name}'"
            # The key as it was, too: of a long one the name is cut.
            secret = any(self.is_secret(text) for text in (key, name) if type(text) is str)
            held = self.plain(value, depth + 1)
            result[name] = REDACTED if secret and not _is_number(value, held) else held
        if kept < len(items):
            result["truncated"] = f"{len(items) - kept} more"
        return result

    def key(self, key: Any) -> str:
        """Return a key as text."""
        value = self.plain(key, _DEPTH - 2)
        return value if isinstance(value, str) else repr(value)

    def sequence(self, items: list[Any], depth: int) -> list[Any]:
        """Return the list of `items`, cut to the items that are left."""
        kept = self.take(len(items))
        result = [self.plain(item, depth + 1) for item in items[:kept]]
        if self.is_secret is not nothing:
            redact_arguments(result)
        if kept < len(items):
            result.append(f"[truncated: {len(items) - kept} more]")
        return result

    def take(self, wanted: int) -> int:
        """Return how many of `wanted` items may still be walked."""
        taken = min(wanted, max(self.items_left, 0))
        self.items_left -= taken
        return taken

    def text(self, value: str) -> str:
        """Return text that UTF-8 can hold, without the secrets in it, cut to the limit."""
        redacts = self.is_secret is not nothing
        if self.cut is not None and len(value) > self.cut:
            # A secret that begins before the cut shows by what is behind it.
            kept = cut_secrets(value[: self.cut + _MARGIN]) if redacts else value
            value = f"{kept[: self.cut]}[truncated: {len(value) - self.cut} more]"
        elif redacts and len(value) <= LIMIT:  # a longer one comes again, with a cut
            value = cut_secrets(value)
        try:
            value.encode()
        except UnicodeEncodeError:  # a lone surrogate
            value = value.encode(errors="backslashreplace").decode()
        return value

    def scalar(self, value: Any, kind: type, depth: int) -> Any:  # noqa: C901, PLR0911 - one table of types
        """Return the plain form of anything that is no builtin container."""
        if issubclass(kind, enum.Enum):
            return self.plain(value._value_, depth + 1)
        if issubclass(kind, str):
            return self.text(str.__str__(value))
        if issubclass(kind, float):
            return float.__float__(value)
        if issubclass(kind, int):
            return self.plain(int.__int__(value))
        number = _number(value, kind)
        if number is not None:
            return self.plain(number, _DEPTH - 1)
        if self.strict:
            raise MetadataError(
                f"a value of type {kind.__name__} is not JSON: give str, int, float, bool, None, list or dict"
            )
        if issubclass(kind, (bytes, bytearray, memoryview)):
            return self.text(bytes(value).decode(errors="backslashreplace"))
        if kind in (datetime.datetime, datetime.date, datetime.time):
            return str(value.isoformat())
        if kind in (decimal.Decimal, uuid.UUID, datetime.timedelta) or issubclass(kind, pathlib.PurePath):
            return self.text(str(value))
        if issubclass(kind, BaseException):
            return self.text(f"{kind.__name__}: {', '.join(map(str, self.sequence(list(value.args), depth)))}")
        if dataclasses.is_dataclass(kind):
            state = getattr(value, "__dict__", {})
            return self.mapping([(name, state.get(name)) for name in kind.__dataclass_fields__], depth)
        return f"<{kind.__module__}.{kind.__qualname__}>"


def _is_number(value: Any, plain: Any) -> bool:
    """Whether this is a number, True, False or None, of which none is a secret."""
    return type(plain) in (int, float, bool, type(None)) or issubclass(type(value), int)


def _builtin(kind: type) -> Any:
    return next(base for base in kind.__mro__ if base in (list, tuple, set, frozenset))


def _fits(key: Any) -> bool:
    return type(key) is not int or key in _NUMBER_64


def _big(value: int) -> str:
    # str() of a huge int raises past sys.get_int_max_str_digits(), and takes quadratic time before that.
    return str(value) if value.bit_length() < 4096 else hex(value)


def _number(value: Any, kind: type) -> Any:
    """Return the Python value of a numpy or torch scalar, a sentence for other tensors and arrays, None for the rest."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and issubclass(kind, numpy.generic):
        item = value.item()
        return item if type(item) in (bool, int, float, str) else str(item)
    if numpy is not None and issubclass(kind, numpy.ndarray):
        return f"<array {value.dtype} {list(value.shape)}>"
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "Tensor") and issubclass(kind, torch.Tensor):
        return _tensor(value)
    return None


def _tensor(value: Any) -> Any:
    # Reading a value off an accelerator waits for every kernel before it: that is the user's step to delay, not ours (F57).
    device = value.device.type
    if device != "cpu":
        return f"<{device} tensor: not waited for; record .item() where you can wait>"
    if value.numel() != 1:
        return f"<tensor {str(value.dtype).removeprefix('torch.')} {list(value.shape)}>"
    item = value.item()
    return item if type(item) in (bool, int, float) else str(item)
