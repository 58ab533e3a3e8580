"""Bytes of memory that records take while they wait: a limit in encoded bytes let fifty times as much through."""

from collections.abc import Iterable, Sequence
from itertools import chain
from operator import attrgetter
from sys import getsizeof
from typing import Any

from msgspec.structs import force_setattr

from elastic_events.bus.record import Record

__all__ = ("weigh",)

#: Bytes of a record beside what it holds: itself, its numbers and names, its place in a queue, the object made of it.
_RECORD = 512

#: Bytes of a character, at most: one beyond the first 65,536 of Unicode makes all those of its text as wide.
_CHARACTER = 4

_FLAT = frozenset({str, int, float, bool, type(None)})
_FIELDS, _SIZE = attrgetter("fields"), attrgetter("size")


def weigh(records: Sequence[Record]) -> int:
    """Return the bytes of memory that `records` take, which are events or metrics."""
    if records and records[0].kind == "metric" and _are_flat(chain.from_iterable(map(_FIELDS, records))):
        encoded: int = sum(map(_SIZE, records))  # at once, since they are many
        return _RECORD * len(records) + _CHARACTER * encoded
    return sum(map(_weight, records))


def _weight(record: Record) -> int:
    """Return what one takes; it is known from then on, to the other lanes, too."""
    if record.kind == "metric" and _are_flat(record.fields):
        return _RECORD + _CHARACTER * record.size
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
