"""A drain in another process, as a bus that is drained there sees it."""

from collections.abc import Sequence
from typing import Protocol, Self

from elastic_events.bus.context import Context
from elastic_events.bus.errors import ConfigError
from elastic_events.bus.ledger import LaneStats
from elastic_events.bus.pump import PipedRing

__all__ = ("Elsewhere", "LaneElsewhere")


class Elsewhere(Protocol):
    """A drain in another process that reads this bus's rings. Any thread may ask it."""

    @property
    def urls(self) -> list[str]:
        """The sinks that were asked for."""
        ...

    def takes(self, url: str) -> bool:
        """Return whether the other process can serve `url`."""
        ...

    def subscribe(self, url: str) -> str:
        """Let the sink of `url` have what this process records; return the lane's name."""
        ...

    def lanes(self) -> dict[str, LaneStats]:
        """Return the ledgers as the other process last wrote them."""
        ...

    def flush(self, heads: Sequence[int], timeout: float) -> dict[str, int]:
        """Wait `timeout` seconds at most; return how many of this process's records before `heads` each lane has not
        delivered: nothing when all is settled.
        """
        ...

    def close(self, heads: Sequence[int], timeout: float) -> dict[str, int]:
        """As `flush`, then let go: the rings are closed."""
        ...

    def reopen(self, context: Context) -> tuple[PipedRing, PipedRing]:
        """Return rings of its own for a forked child, at its first emit."""
        ...


class LaneElsewhere:
    """A lane of the other process, as `bus.subscribe(URL)` returns it."""

    def __init__(self, name: str, elsewhere: Elsewhere) -> None:
        self.name = name
        self._elsewhere = elsewhere

    def stats(self) -> LaneStats | None:
        """Return its ledger as the other process last wrote it, or None before the first time."""
        return self._elsewhere.lanes().get(self.name)

    def unsubscribe(self) -> None:
        """Refuse: the other process serves the run, not one subscription.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"the lane {self.name!r} is in the collector's process: it ends with the run")

    async def aclose(self) -> None:
        """Refuse, as `unsubscribe`."""
        self.unsubscribe()

    async def __aenter__(self) -> Self:
        self.unsubscribe()
        return self

    async def __aexit__(self, *_: object) -> None:
        """End with the run."""

    def __repr__(self) -> str:
        return f"<LaneElsewhere {self.name}>"
