"""What a bus says on stderr, since there is nobody to raise it to."""

import contextlib
import os

__all__ = ("Told", "say")


class Told:
    """Says a thing once; never through logging, which may lead back to the bus (F36)."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def report(self, what: str, error: BaseException) -> None:
        """Say `what` failed and why, the first time."""
        if what not in self._said:
            self._said.add(what)
            say(f"elastic_events: {what}: {type(error).__name__}: {error}")


def say(text: str) -> None:
    """Write a line to stderr."""
    with contextlib.suppress(OSError):  # no stderr, nobody to tell
        os.write(2, text.encode(errors="backslashreplace") + b"\n")
