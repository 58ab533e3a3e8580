"""Secrets never reach a queue: which metadata keys are dropped before encoding."""

import re

__all__ = ("REDACTED", "SECRETS", "Redactor")

REDACTED = "[redacted]"

#: Keys whose values are secrets, wherever in the key the word stands; `key` only as a word of its own (not "monkey").
SECRETS = r"token|secret|passw|authorization|cookie|credential|(?:^|[^a-z])(?:api|access|private|ssh)?_?key(?:$|[^a-z])"

_SEEN = 4096


class Redactor:
    """Decides by key. `safe` holds the keys it has seen and passed, so that the hot path is one call for all keys.

    Any thread may call it.
    """

    def __init__(self, pattern: str | None = SECRETS) -> None:
        self._search = re.compile(pattern, re.IGNORECASE).search if pattern else lambda _key: None
        self.safe: set[str] = set()

    def is_secret(self, key: str) -> bool:
        """Whether what stands under `key` must not be recorded."""
        if key in self.safe:
            return False
        if self._search(key):
            return True
        if len(self.safe) < _SEEN:  # bounded: keys made of data must not grow it for ever
            self.safe.add(key)
        return False
