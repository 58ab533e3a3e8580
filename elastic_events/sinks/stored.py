"""The stored form of a record: one line of strict JSON, the same in every file, message and dead letter.

The object holds `id, kind, seq, time_ns, monotonic_ns, name, channel`, then the kind's own fields, then `context` and,
only where it is so, `"recovered": true`. Every record has a stored form, and reading it gives the record back, with these
exceptions, which strict JSON forces:

- NaN and the infinities become the strings "NaN", "Infinity" and "-Infinity"; a metric's value becomes the number again.
- Keys become strings. Of `{1: a, "1": b}` both stay: the string keeps its name, the other becomes `1'` (F60).
- bytes, times, integers beyond 64 bits and nesting beyond 100 levels become text.
"""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import repeat
from typing import Annotated, Any, Generic, TypeVar, get_args

import msgspec
from msgspec import UNSET, UnsetType

from elastic_events.bus.codec import plain
from elastic_events.bus.context import Context
from elastic_events.bus.errors import InputError
from elastic_events.bus.record import RINGS, Kind, Record, record_of
from elastic_events.sinks.columns import alike, are_numbers, are_strict_events, columns

__all__ = (
    "FIELDS",
    "Damaged",
    "Head",
    "NothingYet",
    "Number",
    "Place",
    "Reading",
    "are_whole",
    "from_json",
    "strict",
    "strict_json",
    "to_json",
    "to_lines",
)

#: Told about a line that holds no record: its number in its file, and why.
Damaged = Callable[[int, str], object]

#: Kind -> the names of `Record.fields` in the stored form.
FIELDS: dict[Kind, tuple[str, ...]] = {
    "event": ("source", "timestamp", "metadata"),
    "rdzv": (
        *("run_id", "message", "hostname", "pid", "node_state"),
        *("master_endpoint", "rank", "local_id", "error_trace"),
    ),
    "metric": ("value",),
    "ledger": ("ledger",),
}

_KINDS = frozenset(get_args(Kind))
_HEAD = ("id", "kind", "seq", "time_ns", "monotonic_ns", "name", "channel")
_DEPTH = 100  # strict parsers, jq and SQLite's among them, stop between 128 and 1,000 levels
_ITEMS = 200_000  # a frame holds 16 KiB; this only ends a walk through an object that contains itself
_NUMBER_64 = range(-(2**63), 2**64)
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


Position = TypeVar("Position")


class NothingYet(InputError):
    """The store is not there, or has not begun: who follows it waits."""


class Place(Generic[Position]):
    """Where a reading is. An object of its own: in the reading itself it would be a cycle, which keeps files open."""

    def __init__(self, position: Position) -> None:
        self.position = position


class Reading(Iterator[Record], Generic[Position]):
    """The records of one look at a store, read as they are asked for. For one thread at a time."""

    def __init__(self, position: Position, read: Callable[[Place[Position]], Generator[Record, None, None]]) -> None:
        self._place = Place(position)
        self._records = read(self._place)

    @property
    def position(self) -> Position:
        """Where the next look begins: give it as `after` once this one is exhausted."""
        return self._place.position

    def __iter__(self) -> Iterator[Record]:  # noqa: PYI034
        return self._records  # the generator itself, since a loop then saves a call a record

    def __next__(self) -> Record:
        return next(self._records)

    def close(self) -> None:
        """Let go of the files; an exhausted or forgotten reading has done so."""
        self._records.close()


#: What a number or a time of a record is below: near the end of what 64 bits hold the sum of two no longer fits.
_HIGH = 2**62

#: A number or a time of a record that is told of.
Number = Annotated[int, msgspec.Meta(gt=-_HIGH, lt=_HIGH)]


class Head(msgspec.Struct):
    """What every stored object has beside its kind's own fields, and its context."""

    kind: str
    seq: int
    time_ns: int
    monotonic_ns: int
    name: str
    channel: str | None


class _Line(Head):
    """The stored object as it is read; what its kind does not have is UNSET."""

    context: Context
    id: str = ""
    source: Any = UNSET
    timestamp: Any = UNSET
    metadata: Any = UNSET
    run_id: Any = UNSET
    message: Any = UNSET
    hostname: Any = UNSET
    pid: Any = UNSET
    node_state: Any = UNSET
    master_endpoint: Any = UNSET
    rank: Any = UNSET
    local_id: Any = UNSET
    error_trace: Any = UNSET
    value: Any = UNSET
    ledger: Any = UNSET
    recovered: bool = False


_encoder = msgspec.json.Encoder()
_encode = _encoder.encode
_decode = msgspec.json.Decoder(_Line).decode

#: Kind -> what its lines are encoded from: their keys, in order.
_LINES: dict[Kind, Callable[..., msgspec.Struct]] = {
    kind: msgspec.defstruct(kind, [*_HEAD, *names, ("recovered", bool | UnsetType), "context"], gc=False)
    for kind, names in FIELDS.items()
}


def to_json(record: Record) -> bytes:
    """Return `record` as one line of strict JSON, UTF-8, without the newline. Total; any thread may call it."""
    return to_lines([record])[:-1]


def to_lines(records: Sequence[Record]) -> bytes:
    """Return the lines of `records`, each with its newline; all at once, in less than half the time of one by one."""
    try:
        return _encoder.encode_lines(_lines(records))
    except (TypeError, ValueError):  # a lone surrogate, a part of another type: from no ring
        return b"".join([_line(record) + b"\n" for record in records])


def _lines(records: Sequence[Record]) -> list[msgspec.Struct]:
    lines: list[msgspec.Struct] = []
    for group in alike(records):
        lines += _same(group)
    return lines


def _same(records: Sequence[Record]) -> list[msgspec.Struct]:
    """Return the lines of records of one kind and speaker.

    By columns, since a call with ten arguments for each record is as dear as the encoding.
    """
    kind, context = records[0].kind, records[0].context
    seqs, times, clocks, names, channels, payload, recovered, flat = columns(records)
    if not flat:
        if not _are_strict(kind, payload):
            payload = [
                [value if type(value) is str or value is None else strict(value) for value in values]
                for values in payload
            ]
        try:
            "".join(names + channels)  # the quickest way to see that all of them are text
        except TypeError:
            names, channels = tuple(map(_text, names)), tuple(map(_channel, channels))
    speaker = f"{context.run_id}/{context.process}/{RINGS[kind]}/"
    ids = [f"{speaker}{seq}" for seq in seqs]
    again = [one or UNSET for one in recovered] if any(recovered) else repeat(UNSET)
    head = ids, repeat(kind), seqs, times, clocks, names, channels
    return list(map(_LINES[kind], *head, *payload, again, repeat(_context(context))))


def _are_strict(kind: Kind, payload: Sequence[Sequence[Any]]) -> bool:
    """Whether strict JSON has them as they are. Nearly all do, and are looked at many at once."""
    if kind == "metric":
        return are_numbers(payload[0], 2**64)
    return kind == "event" and are_strict_events(*payload)


def _line(record: Record) -> bytes:
    """Return the line of a record that no ring holds, whatever its fields are."""
    payload = zip(FIELDS[record.kind], record.fields, strict=True)
    line = {
        **{name: getattr(record, name) for name in _HEAD},
        "name": _text(record.name),
        "channel": _channel(record.channel),
        **{name: value if _is_strict(value) else strict(value) for name, value in payload},
        **({"recovered": True} if record.recovered else {}),
        "context": msgspec.structs.asdict(record.context),
    }
    try:
        return _encode(line)
    except UnicodeEncodeError:
        return _encode(strict(line))


def _is_strict(value: Any) -> bool:
    """Whether strict JSON has `value` as it is; UTF-8 is the encoder's to check."""
    kind = type(value)
    if kind is float:
        return bool(value - value == 0)
    return kind in _SAFE or (kind is int and -(2**63) <= value < 2**64)


#: The context whose JSON was asked for last, and that JSON: most records of a batch are of one process.
_last_context: tuple[Context | None, msgspec.Raw] = (None, msgspec.Raw(b""))


def _context(context: Context) -> msgspec.Raw:
    global _last_context  # noqa: PLW0603 - one assignment: another thread sees the old pair or the new
    known, text = _last_context
    if known is not context:
        text = msgspec.Raw(_encode(context))
        _last_context = (context, text)
    return text


def from_json(line: bytes | str) -> Record:
    """Return the record of one stored line; `size` is the length of the line.

    Raises:
        InputError: the line is damaged, or not a stored record.
    """
    try:
        stored = _decode(line)
        if stored.kind not in _KINDS:
            raise InputError(f"not a stored record: its kind is {stored.kind!r}")
        return _record(stored, len(line))
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InputError(f"not a stored record: {error}") from None


def are_whole(*values: Any) -> bool:
    """Whether each of `values` is a `Number`."""
    return all(type(value) is int and -_HIGH < value < _HIGH for value in values)


def strict_json(value: Any) -> bytes:
    """Return any value as strict JSON. Total."""
    try:
        return _encode(strict(value))
    except UnicodeEncodeError:
        return _encode(_Walk().strict(value, 0))


def strict(value: Any) -> Any:
    """Return any value as None, bool, int, finite float, str, list and dict with string keys. Total, bounded.

    A dict that is so already comes back itself, with whatever lone surrogates its strings hold.
    """
    if type(value) is dict:
        # What almost every event holds; without a call an item, which would take twice as long.
        for key, item in value.items():
            kind = type(item)
            if type(key) is not str:
                break
            if kind is int:
                if not -(2**63) <= item < 2**64:
                    break
            elif kind is float:
                if item - item != 0:
                    break
            elif kind not in _SAFE:
                break
        else:
            return value
    elif _is_strict(value) and type(value) is not str:
        return value
    return _Walk().strict(value, 0)


#: Types whose every value is strict JSON (a surrogate apart); int and float are not among them.
_SAFE = frozenset({str, bool, type(None)})


class _Walk:
    """One pass over a value, bounded in depth and items."""

    def __init__(self) -> None:
        self.items_left = _ITEMS

    def strict(self, value: Any, depth: int) -> Any:  # noqa: PLR0911 - one table of types
        """Return the strict form of `value`."""
        kind = type(value)
        if kind is bool or value is None:
            return value
        if kind is int:
            return value if value in _NUMBER_64 else plain(value)
        if kind is float:
            return value if math.isfinite(value) else _not_finite(value)
        if kind is str:
            return _text(value)
        if kind in (dict, list, tuple, set, frozenset):
            if depth >= _DEPTH:
                return "[too deep]"
            return self.mapping(value, depth) if kind is dict else self.sequence(value, depth)
        return self.strict(plain(value), depth + 1 if depth < _DEPTH else depth)

    def mapping(self, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        """Return the dict with string keys, none lost to another."""
        taken = {_text(key) for key in value if type(key) is str}
        result: dict[str, Any] = {}
        for key, item in self.take(value.items()):
            if type(key) is str:
                name = _text(key)
            else:
                name = _key(key)
                while name in taken:
                    name += "'"
                taken.add(name)
            while name in result:  # two strings that differ in a lone surrogate only
                name += "'"
            result[name] = self.strict(item, depth + 1)
        return result

    def sequence(self, value: Iterable[Any], depth: int) -> list[Any]:
        """Return the list."""
        return [self.strict(item, depth + 1) for item in self.take(value)]

    def take(self, items: Iterable[Any]) -> Iterable[Any]:
        """Yield items until the walk has seen too many."""
        for item in items:
            if self.items_left <= 0:
                return
            self.items_left -= 1
            yield item


def _record(stored: _Line, size: int) -> Record:
    fields = tuple(getattr(stored, name) for name in FIELDS[stored.kind])  # type: ignore[index]
    if UNSET in fields:
        missing = FIELDS[stored.kind][fields.index(UNSET)]  # type: ignore[index]
        raise InputError(f"not a stored record: its {missing} is missing")
    if stored.kind == "metric" and type(fields[0]) is str:
        fields = (_NOT_FINITE.get(fields[0], fields[0]),)
    return record_of(
        stored.kind,  # type: ignore[arg-type]
        *(stored.seq, stored.time_ns, stored.monotonic_ns, stored.name),
        stored.channel,  # type: ignore[arg-type]
        *(fields, stored.context, size, stored.recovered),
    )


def _channel(channel: Any) -> str | None:
    return None if channel is None else _text(channel)


def _text(value: Any) -> str:
    """Return text that UTF-8 can hold; of anything that is no text, its JSON."""
    if type(value) is not str:
        value = plain(value)
        if type(value) is not str:
            return strict_json(value).decode()
    try:
        value.encode()
    except UnicodeEncodeError:
        return str(plain(value))
    return str(value)


def _key(key: Any) -> str:
    if type(key) is float and not math.isfinite(key):
        return _not_finite(key)
    return _text(key)


def _not_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
