"""Parts of many records at once, and whether a store has them as they are, so that nobody has to look at each."""

import math
from collections.abc import Iterable, Sequence
from itertools import chain, groupby
from operator import attrgetter
from typing import Any, NamedTuple

from msgspec.structs import astuple

from elastic_events.bus.record import Record

__all__ = ("Columns", "alike", "are_numbers", "are_strict_events", "columns")

_NUMBERS = frozenset({int, float})
_TEXT = frozenset({str})
_CONTEXT = attrgetter("context")
_PLAIN = frozenset({str, int, float, bool, type(None)})


def alike(records: Sequence[Record]) -> Iterable[Sequence[Record]]:
    """Return runs of one kind and speaker: all of `records`, nearly always."""
    kinds, contexts = list(map(type, records)), list(map(_CONTEXT, records))
    # By count, which compares by identity first: grouping asks each record for both, and costs as much as a column.
    if records and kinds.count(kinds[0]) == contexts.count(contexts[0]) == len(records):
        return [records]
    return [list(group) for _, group in groupby(records, attrgetter("kind", "context"))]


class Columns(NamedTuple):
    """The parts of records of one kind."""

    seqs: tuple[int, ...]
    times: tuple[int, ...]
    clocks: tuple[int, ...]
    names: tuple[Any, ...]
    channels: tuple[Any, ...]
    payload: Sequence[Sequence[Any]]
    recovered: tuple[bool, ...]
    flat: bool  #: whether all of them are


def columns(records: Sequence[Record]) -> Columns:
    """Return the parts of records of one kind, by one call a record: to ask each for each part takes twice as long."""
    seqs, clocks, names, channels, *rest = zip(*map(astuple, records), strict=True)
    *payload, times, _, _, recovered, flat, _, _ = rest
    return Columns(seqs, times, clocks, names, channels, payload, recovered, all(flat))


def are_numbers(values: Sequence[Any], below: int) -> bool:
    """Whether the values of metrics are numbers, finite, and integers from -2**63 to `below`."""
    kinds = set(map(type, values))
    if not _NUMBERS.issuperset(kinds):
        return False
    try:
        finite = math.isfinite(sum(values))
    except OverflowError:
        return False
    return finite and (int not in kinds or (min(values) >= -(2**63) and max(values) < below))


def are_strict_events(sources: Sequence[Any], timestamps: Sequence[Any], metadata: Sequence[Any]) -> bool:
    """Whether strict JSON has the fields of events as they are: texts and numbers, finite and of 64 bits, in metadata by text."""
    try:
        held = list(map(dict.values, metadata))
    except TypeError:  # no metadata
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
