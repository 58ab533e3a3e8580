"""The errors that reach a user; the emit path raises none of them unless `strict=True` asks for it."""

import errno
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from elastic_events.bus.redact import cut_secrets
from elastic_events.bus.text import both_ends

if TYPE_CHECKING:
    from elastic_events.bus.record import Record

__all__ = (
    "PERMANENT",
    "SCARCE",
    "USERS",
    "BusClosed",
    "ConfigError",
    "ElasticEventsError",
    "HandlerFailed",
    "InputError",
    "MetadataError",
    "MissingExtra",
    "PermanentError",
    "TransientError",
    "Undelivered",
    "WouldDeadlock",
    "asked_for",
    "refused_by",
    "told",
)


class ElasticEventsError(Exception):
    """Base of every error of this package."""


class ConfigError(ElasticEventsError, ValueError):
    """A handler, URL, option or environment variable is wrong; the sentence says what to write instead."""


class InputError(ElasticEventsError, OSError):
    """A file or directory to be read is missing, damaged or foreign."""


class MetadataError(ElasticEventsError, TypeError):
    """`strict=True` and an event's metadata holds a value that JSON cannot."""


class MissingExtra(ElasticEventsError, ImportError):
    """An optional dependency is not installed; the sentence names the extra to install."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra '{extra}': pip install 'elastic-events[{extra}]'")
        self.extra = extra


class BusClosed(ElasticEventsError, RuntimeError):
    """A call that needs an open bus, on one that is closed or not yet open."""


class HandlerFailed(ElasticEventsError, RuntimeError):
    """A handler with `on_failure="raise"` gave up records: it ends the block of its bus. `lane` names it, `__cause__` is why."""

    def __init__(self, lane: str, error: BaseException) -> None:
        super().__init__(f"the handler {lane!r} failed: {told(error)}")
        self.lane = lane


class WouldDeadlock(ElasticEventsError, RuntimeError):
    """A call that could only wait for itself: a close in a handler of its bus, or a subscribe in the midst of another."""


class Undelivered(ElasticEventsError, TimeoutError):
    """Records were not delivered within a timeout; `undelivered` has their number, by lane."""

    def __init__(self, undelivered: Mapping[str, int]) -> None:
        left = ", ".join(f"{count} of {lane}" for lane, count in undelivered.items() if count)
        super().__init__(f"not delivered in time: {left}")
        self.undelivered: dict[str, int] = dict(undelivered)


class PermanentError(ElasticEventsError):
    """Raised by a handler: trying again cannot help.

    `rejected` names the records that were refused; the other records of the batch count as delivered. Left empty, the
    lane splits the batch until each refused record stands alone.
    """

    def __init__(self, reason: str, rejected: "Sequence[Record]" = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.rejected: tuple[Record, ...] = tuple(rejected)


class TransientError(ElasticEventsError):
    """Raised by a sink: the same batch may succeed later.

    `retry_after` is the seconds that the server asked for, or None; the lane waits that long instead of its backoff.
    """

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


#: Characters of what an error says.
_WORDS = 4096


def told(error: BaseException) -> str:
    """Return the name and the words of an error, of many both ends; of one whose words raise, the name alone.

    They may be a whole SQL statement with its values, or the page of a server: to look for secrets in it takes seconds.
    """
    try:
        words = f"{type(error).__name__}: {error}"
        return words if len(words) <= _WORDS else both_ends(words, _WORDS, cut_secrets)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - the `__str__` of somebody's own error
        return type(error).__name__


def asked_for(error: BaseException) -> float | None:
    """Return how many seconds the `retry_after` of an error asks to wait: a number, or a header's text; else None."""
    try:
        seconds = float(error.retry_after)  # type: ignore[attr-defined]
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - it has none, or somebody else's class means something else by the name
        return None
    return seconds if seconds > 0 else None


def refused_by(error: BaseException, batch: "Sequence[Record]") -> "list[Record]":
    """Return the records of `batch` that an error names in `rejected`, itself or a copy; none where it names others, too."""
    try:
        named = tuple(error.rejected)  # type: ignore[attr-defined]
        refused = set(map(id, named))
        if refused <= set(map(id, batch)):
            return [record for record in batch if id(record) in refused]
        names = {record.id for record in named}  # copies: the sink has them from another process, say
        return [record for record in batch if record.id in names] if names <= {record.id for record in batch} else []
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - as above
        return []


#: Failures that trying again cannot help: the handler said so, or the record does not fit its code.
PERMANENT = (PermanentError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, AssertionError)

#: Errors of a system that is short of something just now: they say nothing about the file, and the next try may be well.
SCARCE = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN))

#: Why a sink does not open, where only the user can put it right.
USERS = (ConfigError, MissingExtra)
