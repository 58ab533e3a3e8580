"""A worker that is a function: what its launcher calls in its process, which begins to observe there."""

import sys
from collections.abc import Callable
from functools import update_wrapper
from typing import Any

from elastic_events.observe import observe

__all__ = ("Observed",)


class Observed:
    """A function as a rank runs it; pickled with it. Its arguments, its result and its exceptions pass."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        update_wrapper(self, function, updated=())

    def __call__(self, *args: Any) -> Any:
        """Begin to observe this process, and call the function."""
        observe(rank=True)
        try:
            return self._function(*args)
        except Exception as error:
            _raised(error)  # `multiprocessing` catches it: no hook is called
            raise


def _raised(error: Exception) -> None:
    words = sys.modules.get("elastic_events.observe.last_words")
    if words is not None:
        words.raised(error)
