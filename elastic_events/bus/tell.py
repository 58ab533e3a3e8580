"""What a bus says on stderr, since there is nobody to raise it to; a sentence each, and never a flood."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from elastic_events.bus.errors import told
from elastic_events.bus.handler import CallableSink
from elastic_events.bus.redact import cut_secrets
from elastic_events.bus.text import noun

if TYPE_CHECKING:
    from elastic_events.bus.lane import Lane

__all__ = ("Notices", "Told", "say", "shown")

#: Seconds between two sentences of a kind about one lane, at least: a sink that comes and goes all the time.
QUIET = 60.0

#: Things of which each is said once, at most: names may be made of data.
THINGS = 64

#: Characters of a sentence: a server's answer may be a page.
_LONGEST = 1000

#: Characters in which secrets are looked for before a sentence is shortened: half a secret no longer looks like one.
_LOOKED_AT = 16 * _LONGEST


class Told:
    """Says what a person should know; never through logging, which may lead back to the bus (F36)."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def report(self, what: str, error: BaseException) -> None:
        """Say `what` failed and why, the first time."""
        if what not in self._said and len(self._said) < THINGS:
            self._said.add(what)
            self.say(f"{what}: {told(error)}")

    def say(self, sentence: str) -> None:
        """Say a sentence."""
        say(f"elastic_events: {sentence}")


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
        """Say what it lost in all; nothing where it lost nothing."""
        stats = self.lane.stats()
        if self.lane.ledger.lost:
            why = f"; its last error: {stats.last_error}" if stats.last_error else ""
            of = f"{stats.accepted} {noun(stats.accepted, 'record')}"
            self._say(f"{self._who} lost {stats.lost} of {of}: {stats.why_lost}{why}")
        spool = self.lane.subscription.spool
        if stats.pending:
            where = "lost" if spool is None else f"kept in {spool} for the next start"
            self._say(
                f"{self._who} did not deliver {stats.pending} {noun(stats.pending, 'record')} by the deadline: {where}"
            )

    def _new(self, now: float) -> Iterator[str]:
        lane = self.lane
        remarks = getattr(lane.sink, "remarks", ())
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


def say(text: str) -> None:
    """Write a line to stderr as `shown` has it; nowhere if there is none."""
    if sys.__stderr__ is None:  # closed when the program began: the descriptor may be a file of its own by now
        return
    with contextlib.suppress(OSError):
        os.write(2, shown(text).encode() + b"\n")


def shown(text: str, longest: int = _LONGEST) -> str:
    """Return `text` plain, of bounded length, and without the secrets that show in it."""
    safe = cut_secrets(text[:_LOOKED_AT])[:longest]
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in safe)
