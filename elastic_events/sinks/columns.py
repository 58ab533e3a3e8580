"""Fields of many records at once: whether a store has them as they are, so that nobody has to look at each."""

import math
from collections.abc import Sequence
from itertools import chain
from operator import is_
from typing import Any

__all__ = ("are_known", "are_strict_events", "numbers")

_NUMBERS = frozenset({int, float})
_TEXT = frozenset({str})
_PLAIN = frozenset({str, int, float, bool, type(None)})


def are_known(strict: Sequence[object], fields: Sequence[object]) -> bool:
    """Whether `strict` of each record says that strict JSON has its `fields`: these, and no others put in their place."""
    return all(map(is_, strict, fields))


def numbers(fields: Sequence[Sequence[Any]], below: int) -> list[float] | None:
    """Return the values of metrics if each is one number, finite, and an integer from -2**63 to `below`; None for others."""
    values = list(chain.from_iterable(fields))
    if len(values) != len(fields) or not _NUMBERS.issuperset(map(type, values)):
        return None
    try:
        finite = math.isfinite(sum(values))
    except OverflowError:
        return None
    return values if finite and min(values) >= -(2**63) and max(values) < below else None


def are_strict_events(fields: Sequence[Sequence[Any]]) -> bool:
    """Whether strict JSON has the fields of events as they are: texts and numbers, finite and of 64 bits, in metadata by text."""
    try:
        sources, timestamps, metadata = zip(*fields, strict=True)
        held = list(map(dict.values, metadata))
    except (TypeError, ValueError):  # not the fields of an event
        return False
    shapes = set(map(tuple, metadata))
    if not _TEXT.issuperset(map(type, chain.from_iterable(shapes))):
        return False
    # Most events of a batch have the same keys: then a column is of one type.
    columns = zip(*held, strict=True) if len(shapes) == 1 else (list(chain.from_iterable(held)),)
    return all(map(_are_plain, (sources, timestamps, *columns)))


def _are_plain(values: Sequence[Any]) -> bool:
    kinds = set(map(type, values))
    if float in kinds:
        floats = values if len(kinds) == 1 else [value for value in values if type(value) is float]
        if not math.isfinite(sum(floats)):
            return False
    if int in kinds:
        integers = values if len(kinds) == 1 else [value for value in values if type(value) is int]
        if min(integers) < -(2**63) or max(integers) >= 2**64:
            return False
    return _PLAIN.issuperset(kinds)
