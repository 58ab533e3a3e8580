"""What a person is told of the lanes of a bus: a sentence when one fails, is well again, loses, and what it lost in all."""

from collections.abc import Callable, Container, Iterator
from typing import TYPE_CHECKING

import anyio

from elastic_events.bus.handler import CallableSink
from elastic_events.bus.text import noun

if TYPE_CHECKING:
    from elastic_events.bus.lane import Lane

__all__ = ("Board", "Notices")

#: Seconds between two sentences of a kind about one lane, at least: a sink that comes and goes all the time.
QUIET = 60.0

#: Seconds between two looks for what a person should be told of the lanes.
NOTICE = 0.25


class Notices:
    """What a person is told of one lane: that it begins to fail, is well again, begins to lose, and what it lost in all.

    Looks at the lane now and then, so that a failure that the next attempt mends is none.
    """

    def __init__(self, lane: "Lane", say: Callable[[str], object]) -> None:
        self.lane = lane
        self._say = say
        self._who = f"{'handler' if isinstance(lane.sink, CallableSink) else 'sink'} {lane.name!r}"
        self._lost = 0  # records that are told as lost
        self._quiet = {"fails": 0.0, "loses": 0.0}  # until when nothing of the kind is said
        self._failing_since: float | None = None  # as told
        self._remarks = 0  # of the sink's, that were told

    def look(self, now: float) -> None:
        """Say what is new; `now` is monotonic seconds."""
        for sentence in self._new(now):
            self._say(f"{self._who} {sentence}")

    def end(self) -> None:
        """Say what it lost in all, or that it is well again, where that came too late for a look, and how its close failed."""
        stats = self.lane.stats()
        if self._failing_since is not None and not self.lane.trouble:
            self._failing_since = None
            self._say(f"{self._who} is well again")
        if self.lane.ledger.lost:
            why = f"; its last error: {stats.last_error}" if stats.last_error else ""
            of = f"{stats.accepted} {noun(stats.accepted, 'record')}"
            self._say(f"{self._who} lost {stats.lost} of {of}: {stats.why_lost}{why}")
        if self.lane.end_error:
            self._say(f"{self._who} failed as it was closed: {self.lane.end_error}")
        spool = self.lane.subscription.spool
        if stats.pending:
            where = "lost" if spool is None else f"kept in {spool} for the next start"
            self._say(
                f"{self._who} did not deliver {stats.pending} {noun(stats.pending, 'record')} by the deadline: {where}"
            )

    def _new(self, now: float) -> Iterator[str]:
        lane = self.lane
        remarks = getattr(lane.sink, "remarks", ())
        if not isinstance(remarks, list | tuple):  # somebody's own sink means something else by it
            remarks = ()
        yield from (f"says: {remark}" for remark in remarks[self._remarks :])
        self._remarks = len(remarks)
        lost = lane.ledger.lost
        if lost > self._lost and now >= self._quiet["loses"]:
            self._quiet["loses"] = now + QUIET
            stats = lane.stats()
            self._lost = lost
            why = f" ({stats.last_error})" if stats.failed or "spool_failed" in stats.dropped else ""
            yield f"loses records: so far {stats.why_lost}{why}"
        trouble = lane.trouble
        if trouble and self._failing_since is None and now >= self._quiet["fails"]:
            self._quiet["fails"] = now + QUIET
            self._failing_since = now
            yield f"{trouble}: {lane.last_error}"
        elif not trouble and self._failing_since is not None:
            began, self._failing_since = self._failing_since, None
            yield f"is well again after {now - began:.0f} s"


class Board:
    """What a person is told of all the lanes of a bus."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self.all: tuple[Notices, ...] = ()
        self.held: bool = False  # nothing is said at once
        self._say = say
        self._looked = 0.0

    def add(self, lane: "Lane") -> None:
        """Look at `lane` from now on, and whenever it asks for that."""
        notices = Notices(lane, self._say)
        lane.tell = lambda: None if self.held else notices.look(anyio.current_time())
        self.all = (*self.all, notices)

    def forget(self, lanes: Container["Lane"]) -> None:
        """Look at `lanes` no more."""
        self.all = tuple(notices for notices in self.all if notices.lane not in lanes)

    def look(self) -> None:
        """Say what is new of the lanes, a few times a second."""
        now = anyio.current_time()
        if now - self._looked >= NOTICE or not self._looked:
            self._looked = now
            for notices in self.all:
                notices.look(now)

    def end(self, lanes: Container["Lane"] | None = None) -> None:
        """Say what each lane lost in all; with `lanes`, of these only, which are forgotten."""
        for notices in self.all:
            if lanes is None or notices.lane in lanes:
                notices.end()
        if lanes is not None:
            self.forget(lanes)
