"""Bytes of memory that records take while they wait: a limit in encoded bytes let fifty times as much through."""

from collections.abc import Iterable, Sequence
from operator import attrgetter
from sys import getsizeof
from typing import Any

from msgspec.structs import force_setattr

from elastic_events.bus.record import Record

__all__ = ("bound", "weigh")

#: Bytes of a record beside what it holds: itself, its numbers and names, its place in a queue, the object made of it.
_RECORD = 544

#: Bytes of a character, at most: one beyond the first 65,536 of Unicode makes all those of its text as wide.
_CHARACTER = 4

#: Bytes of a key and its value beside their characters, at most.
_ENTRY = 128

#: Encoded bytes up to which an event is weighed by these: of a long text, or many keys, they would say too much.
_SHORT = 384

#: Bytes of memory that a byte of msgpack becomes, at most: a dict in a dict takes 260 for two.
_MOST = 160

_FLAT = frozenset({str, int, float, bool, type(None)})

#: Number of keys -> bytes of an event with metadata of so many, beside its characters; more do not fit into a short one.
_FLAT_EVENT = [
    _RECORD + getsizeof(dict.fromkeys(map(str, range(entries)))) + _ENTRY * entries for entries in range(_SHORT // 2)
]

_FLATNESS, _SIZE, _METADATA = attrgetter("flat"), attrgetter("size"), attrgetter("metadata")


def bound(count: int, encoded: int) -> int:
    """Return the bytes of memory that `count` records of `encoded` bytes never pass, whatever they hold: in no time."""
    return _RECORD * count + _MOST * encoded


def weigh(records: Sequence[Record]) -> int:
    """Return the bytes of memory that `records` take, which are events or metrics; of flat ones without a look at each."""
    if not records or not all(map(_FLATNESS, records)):
        return sum(map(_weight, records))
    sizes: list[int] = list(map(_SIZE, records))
    if records[0].kind == "metric":
        return _RECORD * len(records) + _CHARACTER * sum(sizes)
    if max(sizes) > _SHORT:
        return sum(map(_weight, records))
    return sum(map(_FLAT_EVENT.__getitem__, map(len, map(_METADATA, records)))) + _CHARACTER * sum(sizes)


def _weight(record: Record) -> int:
    """Return what one takes; it is known from then on, to the other lanes, too."""
    if not record.memory:
        force_setattr(record, "memory", _weight_alone(record))
    return record.memory


def _weight_alone(record: Record) -> int:
    # As they weigh many at once: what a sum was made of is taken out of it one by one.
    if record.kind == "metric" and (record.flat or _are_flat(record.fields)):
        return _RECORD + _CHARACTER * record.size
    if record.flat and record.size <= _SHORT:
        return _FLAT_EVENT[len(record.metadata)] + _CHARACTER * record.size
    names = getsizeof(record.name) + getsizeof(record.channel)
    return _RECORD + names + _content(record.fields)


def _content(value: Any) -> int:
    total, waiting = 0, [value]
    while waiting:
        one = waiting.pop()
        total += getsizeof(one)
        if type(one) is dict:
            total += sum(map(getsizeof, one))
            inner: Any = one.values()
        elif type(one) is list or type(one) is tuple:
            inner = one
        else:
            continue
        if _are_flat(inner):
            total += sum(map(getsizeof, inner))
        else:
            waiting += inner
    return total


def _are_flat(values: Iterable[Any]) -> bool:
    """Whether nothing of it holds anything."""
    return _FLAT.issuperset(map(type, values))
