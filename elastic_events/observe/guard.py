"""What keeps a fault of ours out of the job: a hook that fails is off from then on, and says so once, as an event."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import wraps
from typing import ParamSpec, TypeVar

from elastic_events.api import Event, EventSource
from elastic_events.front import record
from elastic_events.observe import seam
from elastic_events.observe.folded import is_framework

__all__ = ("failed", "forget", "guarded", "hook", "is_off", "switch_off")

P = ParamSpec("P")
T = TypeVar("T")

_off: set[str] = set()
_inside: dict[str, int] = {}

#: How deep a part may be called from within itself. Wrappers of wrappers are few; more is a circle.
DEEPEST = 32


def forget(parts: Iterable[str]) -> None:
    """Switch parts off without a word."""
    _off.update(parts)


def is_off(part: str) -> bool:
    """Whether a part has switched itself off, or was."""
    return part in _off


def switch_off(part: str, why: str) -> None:
    """Switch a part of the observer off, and tell it once, as the event `observe.off`. Never raises."""
    if part in _off:
        return
    _off.add(part)
    with suppress(Exception):
        record(Event("observe.off", EventSource.WORKER, 0, {"part": part, "reason": why}))


def guarded(part: str) -> Callable[[Callable[P, T]], Callable[P, T | None]]:
    """Return a decorator for what a hook calls: an error in it, or a circle, switches `part` off; the job goes on.

    What a signal handler of the script raises while we happen to run is the script's: it passes.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T | None]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T | None:
            if part in _off:
                return None
            depth = _inside.get(part, 0)
            _inside[part] = depth + 1
            try:
                if depth < DEEPEST:
                    return function(*args, **kwargs)
                switch_off(part, f"{function.__name__} calls itself")
            except Exception as error:
                if not failed(part, function.__name__, error):
                    raise
            finally:
                _inside[part] = depth
            return None

        return call

    return decorate


def hook(part: str, function: Callable[[T], object]) -> Callable[[T, object, object], None]:
    """Return a hook for the steps of optimizers, guarded as above. For what calls nobody else's: it looks for no circle."""

    def call(optimizer: T, _args: object, _options: object) -> None:
        if part in _off:
            return
        try:
            function(optimizer)
        except Exception as error:
            if not failed(part, function.__name__, error):
                raise

    return seam.uncompiled(call)


def failed(part: str, where: str, error: Exception) -> bool:
    """Switch off the part in which an error was raised, and tell it; return False where it is the script's own."""
    if _is_theirs(error):
        return False
    switch_off(part, f"{where}: {type(error).__name__}: {error}")
    return True


def _is_theirs(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and not is_framework(trace.tb_frame.f_code.co_filename)
