"""What users read about a bus: plain numbers, exact at any quiet moment."""

from typing import NamedTuple

__all__ = ("BusStats", "FlushResult", "LaneStats")


class LaneStats(NamedTuple):
    """The ledger of one lane: accepted = delivered + failed + sum(dropped) + filtered + pending."""

    accepted: int  #: records emitted while the lane was subscribed, and records fed to it
    delivered: int  #: records its handler took
    failed: int  #: records its handler refused or failed on until the retry budget was spent
    dropped: dict[str, int]  #: records lost before the handler saw them, by reason
    filtered: int  #: records it does not want
    pending: int  #: records in the rings, in its backlog and in flight
    retries: int  #: attempts after a first failed one
    circuit: str  #: "closed", or "open" while the handler keeps failing and is only probed
    dead_lettered: int  #: of the failed, those kept in the dead letters
    backlog_bytes: int  #: encoded size of the backlog
    last_error: str  #: the last failure, or ""

    @property
    def lost(self) -> int:
        """Records that the handler never took: failed and dropped."""
        return self.failed + sum(self.dropped.values())

    @property
    def balanced(self) -> bool:
        """Whether the ledger adds up; it always does while nobody emits."""
        return self.accepted == self.delivered + self.lost + self.filtered + self.pending


class BusStats(NamedTuple):
    """One look at a bus."""

    state: str  #: "new", "open", "closing", "closed", or "dead" when its drain ended by itself
    accepted: int  #: records emitted on this bus
    closed: int  #: of these, those emitted after it closed
    pending: int  #: records still in the rings
    lanes: dict[str, LaneStats]  #: by lane name
    errors: int  #: faults inside the drain itself; anything but 0 is a bug worth a report
    recorder: str  #: path of the flight recorder's file, or ""


class FlushResult(NamedTuple):
    """What `flush` and `close` could not deliver by their deadline. True when nothing is left."""

    undelivered: dict[str, int]  #: lane name -> records still pending, or given up at close

    def __bool__(self) -> bool:
        return not any(self.undelivered.values())
