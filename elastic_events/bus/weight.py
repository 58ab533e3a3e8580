"""Bytes of memory that records take while they wait: a limit in encoded bytes let fifty times as much through."""

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from operator import attrgetter
from sys import getsizeof
from typing import Any

from msgspec.structs import force_setattr

from elastic_events.bus.record import Record

__all__ = ("bound", "weigh")

#: Bytes of a record beside what it holds: itself, its numbers and names, its place in a queue, the object made of it.
_RECORD = 512

#: Bytes of a character, at most: one beyond the first 65,536 of Unicode makes all those of its text as wide.
_CHARACTER = 4

#: Bytes of a key and its value beside their characters, at most.
_ENTRY = 128

#: Encoded bytes up to which an event is weighed by these: of a long text, or many keys, they would say too much.
_SHORT = 384

#: Bytes of memory that a byte of msgpack becomes, at most: a dict in a dict takes 260 for two.
_MOST = 160

_FLAT = frozenset({str, int, float, bool, type(None)})
_FIELDS, _SIZE, _MEMORY = attrgetter("fields"), attrgetter("size"), attrgetter("memory")


def bound(count: int, encoded: int) -> int:
    """Return the bytes of memory that `count` records of `encoded` bytes never pass, whatever they hold: in no time."""
    return _RECORD * count + _MOST * encoded


def weigh(records: Sequence[Record]) -> int:
    """Return the bytes of memory that `records` take, which are events or metrics."""
    if records and records[0].kind == "metric" and _are_flat(chain.from_iterable(map(_FIELDS, records))):
        encoded: int = sum(map(_SIZE, records))  # at once, since they are many
        return _RECORD * len(records) + _CHARACTER * encoded
    known = list(map(_MEMORY, records))
    if all(known):
        return sum(known)
    if records[0].kind == "event" and (flat := _weigh_flat(records)):
        return flat
    return sum(map(_weight, records))


def _weigh_flat(records: Sequence[Record]) -> int:
    """Return and note what short events take whose metadata hold texts and numbers, at once; 0 where others are among them."""
    try:
        sources, timestamps, metadata = zip(*map(_FIELDS, records), strict=True)
        are_flat = _are_flat(chain(sources, timestamps, chain.from_iterable(map(dict.values, metadata))))
    except (TypeError, ValueError):  # not the fields of an event
        return 0
    sizes = list(map(_SIZE, records))
    if are_flat and max(sizes) <= _SHORT:
        encoded = zip(map(getsizeof, metadata), map(len, metadata), sizes, strict=True)
        weights = [_RECORD + own + _ENTRY * entries + _CHARACTER * size for own, entries, size in encoded]
        deque(map(force_setattr, records, repeat("memory"), weights), maxlen=0)
        return sum(weights)
    return 0


def _weight(record: Record) -> int:
    """Return what one takes; it is known from then on, to the other lanes, too."""
    if record.kind == "metric" and _are_flat(record.fields):
        return _RECORD + _CHARACTER * record.size
    if not record.memory and record.kind == "event":
        _weigh_flat([record])
    if not record.memory:
        names = getsizeof(record.name) + getsizeof(record.channel)
        force_setattr(record, "memory", _RECORD + names + _content(record.fields))
    return record.memory


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
