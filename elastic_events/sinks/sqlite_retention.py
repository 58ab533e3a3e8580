"""What a SQLite file keeps: by age, and by size."""

import sqlite3
import time
from collections.abc import Callable

__all__ = ("Retention",)

#: Seconds between two looks.
EVERY = 10.0

#: Seconds that a look may take, about: a batch waits for it. What is left to remove goes after the next batches.
LONGEST = 1.0

#: Rows that go in one transaction: other processes write between two of them.
ROWS = 20_000

#: Of the size that is allowed, what is left when rows had to go: else there would be a few to remove at each look.
LEFT = 0.95

#: Rows that go at first for the size's sake: nobody knows how large they are before some of them are gone.
FEW = 8

# Metric points go before events: a flood of them never costs what says why the job died.
_TABLES = ("metrics", "events", "rdzv_events", "ledgers")


class Retention:
    """Removes the oldest records of a file once they are too old, or it is too large.

    The room of what is removed is used again: the file grows no further than `max_size`, and does not shrink. The last row of
    each table stays, so that a reader that follows the file knows where it is.

    Args:
        max_age: seconds that a record is kept, by its own time; None for ever.
        max_size: bytes of the file, without its WAL; None for any. For its sake metric points go before events.
        clock, every, longest: seconds since the epoch, between two looks, and of one look; for tests.
    """

    def __init__(
        self,
        max_age: float | None,
        max_size: int | None,
        clock: Callable[[], float] = time.time,
        every: float = EVERY,
        longest: float = LONGEST,
    ) -> None:
        self.max_age = max_age
        self.max_size = max_size
        self.removed: int = 0  #: records
        self._clock = clock
        self._every = every
        self._longest = longest
        self._next = self._until = 0.0

    def apply(self, connection: sqlite3.Connection) -> None:
        """Remove what is too old, or too much, if it is time to look; a file that others use is left for the next look."""
        if (self.max_age is None and self.max_size is None) or time.monotonic() < self._next:
            return
        begun = time.monotonic()
        self._next, self._until = begun + self._every, begun + self._longest
        try:
            if self.max_age is not None:
                self._expire(connection, int((self._clock() - self.max_age) * 1e9))
            if self.max_size is not None and _size(connection) > self.max_size:
                self._shrink(connection, int(self.max_size * LEFT))
            if self._is_late():
                self._next = 0.0
        except sqlite3.OperationalError:  # locked, or no room: what was to go may go later
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _is_late(self) -> bool:
        return time.monotonic() >= self._until

    def _expire(self, connection: sqlite3.Connection, before_ns: int) -> None:
        for table in _TABLES:
            removed = ROWS
            while removed == ROWS:
                removed = self._remove(connection, table, f"time_ns < {before_ns}", ROWS)
                self.removed += removed
                if self._is_late():
                    break

    def _shrink(self, connection: sqlite3.Connection, size: int) -> None:
        for table in _TABLES:
            rows, before = FEW, _size(connection)
            while before > size:
                connection.execute("BEGIN IMMEDIATE")
                removed, now = self._remove(connection, table, "1", rows), _size(connection)
                if removed > 1 and now < size * LEFT:  # larger ones than those before them: fewer will do
                    connection.execute("ROLLBACK")
                    rows = max(1, removed // 4)
                    continue
                connection.execute("COMMIT")
                if not removed:
                    break
                self.removed += removed
                # As many as what is too much takes, by what these took; more by and by, since they took whole pages.
                wanted = (now - size) * removed // (before - now) if now < before else ROWS
                rows, before = max(1, min(wanted, 4 * rows, ROWS)), now
                if self._is_late():
                    return

    @staticmethod
    def _remove(connection: sqlite3.Connection, table: str, which: str, rows: int) -> int:
        # The names are ours, the numbers are some.
        # The last row to come is not always the youngest: it is none of those, or it would stand before all that may go.
        last = f"SELECT max(entry) FROM {table}"  # noqa: S608
        oldest = f"SELECT entry FROM {table} WHERE {which} AND entry < ({last}) ORDER BY time_ns LIMIT {rows}"  # noqa: S608
        return connection.execute(f"DELETE FROM {table} WHERE entry IN ({oldest})").rowcount  # noqa: S608


def _size(connection: sqlite3.Connection) -> int:
    """Return the bytes of the file that hold something."""
    pages, free, each = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * each)
