"""Rows of a SQLite file, thousands at a time, of which the next are fetched while these are looked at.

SQLite hands out a row at a time, and takes the GIL for each of its values. What it puts together as arrays of JSON it makes
without: a thread lets it do so beside Python's own work.
"""

import sqlite3
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import msgspec

from elastic_events.sinks.stored import Number

__all__ = ("MANY", "Rows", "ahead")

#: Rows of a part, at most: enough that the thread seldom waits for the GIL. They take 2 MB.
MANY = 8_192

#: Characters of their texts, at most, where there is more than one row.
_MOST = 8 << 20

#: Characters of a row's text, on average, up to which arrays of JSON, which quote each of them, are faster than rows.
_SHORT = 128

_decode = msgspec.json.Decoder(list[Any]).decode
_decode_numbers = msgspec.json.Decoder(list[Number]).decode

_T = TypeVar("_T")


def ahead(parts: Iterator[_T]) -> Generator[_T, None, None]:
    """Give what `parts` gives: a thread makes the next one meanwhile. Nobody else may use then what it makes it of."""
    with ThreadPoolExecutor(1) as thread:
        coming = _begin(thread, parts)
        while coming is not None:
            part = coming.result()
            if part is None:
                return
            coming = _begin(thread, parts)
            yield part
    yield from parts


def _begin(thread: ThreadPoolExecutor, parts: Iterator[_T]) -> "Future[_T | None] | None":
    """Have the thread make the next part; None: there is no thread to be had, as while the interpreter ends. Do not ask again."""
    try:
        return thread.submit(next, parts, None)
    except RuntimeError:
        return None


class Rows(NamedTuple):
    """The rows of a query, in the order of a number that each has."""

    columns: Sequence[str]
    tables: str  #: the first of them has the key
    key: str  #: the number
    text: str = "''"  #: the column whose texts may be long
    numbers: int = 0  #: of the columns, so many first ones hold numbers of records

    def parts(self, connection: sqlite3.Connection) -> Iterator[Iterable[Any]]:
        """Give the rows in parts, each of tuples; in one that is a list, what should be a number may be something else."""
        first, low = self.tables.split()[0], -(2**63)
        end = (
            f"SELECT max(key_), total(size_), count(*) FROM (SELECT {self.key} AS key_, length({self.text}) AS size_ "  # noqa: S608
            f"FROM {first} WHERE {self.key} > ? ORDER BY {self.key} LIMIT ?)"
        )
        many = MANY
        while True:
            high, size, count = connection.execute(end, (low, many)).fetchone()
            if high is None:
                return
            if size > _MOST and many > 1:
                many = max(1, many // 8)
                continue
            yield self._between(connection, low, high, size <= count * _SHORT)
            low, many = high, min(MANY, many * 2)  # long texts come together: each look reads them

    def _between(self, connection: sqlite3.Connection, low: int, high: int, short: bool) -> Iterable[Any]:
        rest = f"FROM {self.tables} WHERE {self.key} > ? AND {self.key} <= ?"
        if short:
            arrays = ", ".join(f"json_group_array({column})" for column in self.columns)
            with suppress(sqlite3.Error, msgspec.MsgspecError):  # one of them holds what JSON does not
                texts = connection.execute(f"SELECT {arrays} {rest}", (low, high)).fetchone()
                numbers = map(_decode_numbers, texts[: self.numbers])
                return zip(*numbers, *map(_decode, texts[self.numbers :]), strict=True)
        rows = connection.execute(f"SELECT {', '.join(self.columns)} {rest} ORDER BY {self.key}", (low, high))
        return rows.fetchall()
