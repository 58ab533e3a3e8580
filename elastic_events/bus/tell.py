"""What a bus says on stderr, since there is nobody to raise it to; a sentence each, and never a flood."""

import contextlib
import os
import sys

from elastic_events.bus.errors import told
from elastic_events.bus.redact import cut_secrets

__all__ = ("Told", "say", "shown")

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
