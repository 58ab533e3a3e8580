"""A subscription as its user sees it: how it stands, and its end."""

from typing import Protocol, Self

from elastic_events.bus.ledger import LaneStats

__all__ = ("Lane",)


class Lane(Protocol):
    """What `bus.subscribe` returns: one handler with its filter, backlog, batch, timeout, retry and ledger.

    `async with bus.subscribe(handler) as lane:` ends it with the block.
    """

    name: str  #: in `bus.stats().lanes`

    def stats(self) -> LaneStats:
        """Return the ledger as it stands. Any thread may call it."""
        ...

    def unsubscribe(self) -> None:
        """Accept nothing from now on; end when what was accepted is delivered. Any thread may call it."""

    async def aclose(self) -> None:
        """As `unsubscribe`; wait for the end, and for the handler to be closed. In the loop of the bus.

        Raises:
            WouldDeadlock: called in the lane's own handler.
        """

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *_: object) -> None: ...
