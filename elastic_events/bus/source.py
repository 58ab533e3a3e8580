"""What feeds a bus with records that other processes made."""

from typing import Protocol

__all__ = ("Mark", "Source")

#: How far each writer has come: the next sequence of each of its rings. One for each flush: several may wait at once.
Mark = dict[str, list[int]]


class Source(Protocol):
    """What feeds records of other processes to the lanes; a flush covers it."""

    async def run(self) -> None:
        """Feed until cancelled."""

    def mark(self) -> Mark:
        """Return how far each writer that is known has come."""
        ...

    async def flush(self, mark: Mark) -> None:
        """Feed all before `mark`, to which it adds the writers that are found."""

    def behind(self, mark: Mark) -> int:
        """Return how many records of before `mark` are not fed."""
        ...
