"""What stands between torch and the rings, without torch."""

import threading
from typing import Any

from elastic_events.torchrun.installation import Installation
from elastic_events.torchrun.repair import Fact
from elastic_events.torchrun.ticks import Ticks


class Names:
    """Keeps the names of what is recorded."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def record(self, event: Any, /) -> None:
        """Take an event."""
        self.names.append(event.name)

    def record_rdzv_event(self, event: Any, /) -> None:
        """Take a rendezvous event."""
        self.names.append(event.name)

    def put_metric(self, name: str, value: Any, group: str | None, /) -> None:
        """Take a point."""
        self.names.append(name)


def looks(ticks: Ticks | None) -> tuple[int, int]:
    """How many of a hundred equal ticks, and of a hundred other points, are recorded."""
    to = Names()
    installation = Installation(to, ticks)
    for _ in range(100):
        installation.metric("workers.default.healthy", 1, "torchelastic")
        installation.metric("loss", 1, "train")
    return to.names.count("workers.default.healthy"), to.names.count("loss")


def test_ticks_are_thinned_before_they_are_recorded() -> None:
    """Of a hundred equal ticks within a moment one is recorded, of other metrics all; without `Ticks` all of both."""
    assert looks(Ticks(every=60)) == (1, 100)
    assert looks(None) == (100, 100)


def test_a_forked_child_records_on_its_own() -> None:
    """After `redirect` nothing goes where the parent's records go, and no lock that a thread of the parent held is waited for."""
    parent, child = Names(), Names()
    installation = Installation(parent)
    installation._lock.acquire()

    def in_the_child() -> None:
        installation.redirect(child)
        installation.advance(lambda: [Fact("attempt", {})])
        installation.metric("loss", 1, "train")

    thread = threading.Thread(target=in_the_child, daemon=True)
    thread.start()
    thread.join(10)
    assert (parent.names, child.names) == ([], ["attempt", "loss"])


def test_what_comes_after_the_end_is_let_go() -> None:
    """Handlers that torch keeps after `remove` record nothing, and raise nothing."""
    to = Names()
    installation = Installation(to)
    installation.remove()
    installation.metric("loss", 1, "train")
    installation.event('{"name": "e", "source": "AGENT"}')
    installation.advance(lambda: [Fact("attempt", {})])
    assert to.names == []
