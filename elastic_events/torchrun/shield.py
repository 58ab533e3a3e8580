"""What keeps our faults out of the job, and torch's signals in it."""

from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import ParamSpec, TypeVar

from elastic_events.bus.tell import say

__all__ = ("report", "shielded", "tell")

P = ParamSpec("P")
T = TypeVar("T")

_reported: set[str] = set()


def shielded(function: Callable[P, T]) -> Callable[P, T | None]:
    """Return `function` such that an error in it is said once on stderr and is None to the caller.

    Torch's signal handler raises `SignalException`, an `Exception`, wherever the main thread happens to be: in our code too.
    It passes, for it is how the job is told to end.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if any(kind.__name__ == "SignalException" for kind in type(error).__mro__):
                raise
            report(function.__qualname__, error)
            return None

    return call


def report(what: str, error: BaseException) -> None:
    """Say once on stderr what went wrong, past `logging`, which may lead back here. Never raises."""
    if what not in _reported:
        _reported.add(what)
        with suppress(Exception):  # an error that cannot even be shown
            tell(f"{what}: {type(error).__name__}: {error}; the job goes on")


def tell(text: str) -> None:
    """Write one line to stderr, where there is one."""
    say(f"elastic_events: {text}")
