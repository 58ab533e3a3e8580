"""Rows of SQLite in parts: the same ones, whatever they hold, and none twice."""

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from elastic_events.reading import ahead as module
from elastic_events.reading.ahead import Rows, ahead

ROWS = Rows(("key", "number", "said"), "things", "key", "said")


def table(path: Path, rows: list[tuple[Any, ...]]) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False)
    connection.execute("CREATE TABLE things (key INTEGER PRIMARY KEY, number, said)")
    connection.executemany("INSERT INTO things VALUES (?, ?, ?)", rows)
    return connection


def read(connection: sqlite3.Connection) -> list[list[tuple[Any, ...]]]:
    with closing(ahead(ROWS.parts(connection))) as parts:
        return [list(part) for part in parts]


@pytest.mark.parametrize("short", [0, 1000])
@pytest.mark.parametrize(
    "odd",
    [
        b"\xff{}",  # a blob is no JSON
        float("inf"),
        'a "quoted" line\n\x01 and é, \U0001f600',
        2**63 - 1,
        -0.5,
        None,
    ],
)
def test_any_value_comes_as_it_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: Any, short: int) -> None:
    monkeypatch.setattr(module, "_SHORT", short)
    monkeypatch.setattr(module, "MANY", 4)
    rows = [(-7, 0, "{}"), *((key, key, f'{{"step":{key}}}') for key in range(1, 9)), (50, odd, odd), (2**62, 1, "x")]
    with closing(table(tmp_path / "a.db", rows)) as connection:
        parts = read(connection)
    assert [row for part in parts for row in part] == rows
    assert [len(part) for part in parts] == [4, 4, 3]


def test_text_that_is_not_utf8_is_told_as_before(tmp_path: Path) -> None:
    with closing(table(tmp_path / "a.db", [(1, 1, "a")])) as connection:
        connection.execute("INSERT INTO things VALUES (2, 2, CAST(X'FF' AS TEXT))")
        with pytest.raises(sqlite3.OperationalError, match="UTF-8"):
            read(connection)


def test_long_texts_come_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 1000)
    rows = [(key, key, "x" * (900 if 100 < key < 110 else 1)) for key in range(1, 700)]
    with closing(table(tmp_path / "a.db", rows)) as connection:
        parts = read(connection)
    assert [row for part in parts for row in part] == rows
    assert max(sum(len(said) for _, _, said in part) for part in parts if len(part) > 1) <= 1000


def test_no_rows_are_no_parts(tmp_path: Path) -> None:
    with closing(table(tmp_path / "a.db", [])) as connection:
        assert read(connection) == []


def test_what_breaks_while_the_next_is_made_is_raised_in_its_turn() -> None:
    def break_third() -> Iterator[int]:
        yield from (1, 2)
        raise ValueError

    with closing(ahead(break_third())) as parts:
        assert [next(parts), next(parts)] == [1, 2]
        with pytest.raises(ValueError):  # noqa: PT011
            next(parts)


def test_who_goes_early_leaves_nobody_at_work() -> None:
    made = []

    def count() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    with closing(ahead(count())) as parts:
        assert next(parts) == 0
    assert made == [0, 1]


def test_long_texts_are_measured_once_or_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part is as long as the one before it at first, and they grow again behind long texts."""
    monkeypatch.setattr(module, "_MOST", 10_000)
    monkeypatch.setattr(module, "MANY", 512)
    rows = [(key, key, "x" * (900 if key < 1000 else 1)) for key in range(1, 9000)]
    asked: list[str] = []
    with closing(table(tmp_path / "a.db", rows)) as connection:
        connection.set_trace_callback(asked.append)
        parts = read(connection)
    assert [row for part in parts for row in part] == rows
    assert sum("max(key_)" in one for one in asked) < 2 * len(parts)
    assert len(parts[-2]) == 512


@pytest.mark.parametrize("before", [0, 1, 3])
def test_where_no_thread_can_be_had_it_goes_on_without(before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As while the interpreter ends: what no thread makes is made here, each once."""
    submit, asked = ThreadPoolExecutor.submit, count()

    def refuse(pool: ThreadPoolExecutor, *work: Any) -> Any:
        if next(asked) >= before:
            raise RuntimeError
        return submit(pool, *work)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
    with closing(ahead(iter(range(1, 9)))) as parts:
        assert list(parts) == list(range(1, 9))
