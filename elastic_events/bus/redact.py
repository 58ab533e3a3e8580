"""Secrets never reach a queue: which metadata keys are dropped before encoding."""

import re
from typing import Any

__all__ = ("REDACTED", "SECRETS", "Redactor")

REDACTED = "[redacted]"

#: Keys whose values are secrets, wherever in the key the word stands; `key` only as a word of its own (not "monkey").
SECRETS = r"token|secret|passw|authorization|cookie|credential|(?:^|[^a-z])(?:api|access|private|ssh)?_?key(?:$|[^a-z])"

_SEEN = 4096


class Redactor:
    """Decides by key. `safe` holds the keys it has seen and passed, so that the hot path is one call for all keys.

    A value that is no scalar is walked each time, for a secret deeper in it. Any thread may call it.
    """

    def __init__(self, pattern: str | None = SECRETS) -> None:
        self._search = re.compile(pattern, re.IGNORECASE).search if pattern else lambda _key: None
        self.safe: set[Any] = set()

    def redact(self, value: Any, depth: int = 0) -> Any:
        """Return `value` with the values of secret keys replaced; the caller's object is not touched."""
        if depth > 16:
            return value  # the encoder cuts it there
        if isinstance(value, dict):
            return {key: self._entry(key, inner, depth) for key, inner in list(dict.items(value))}
        if type(value) in (list, tuple):
            return [self.redact(item, depth + 1) for item in value]
        return value

    def _entry(self, key: Any, value: Any, depth: int) -> Any:
        if type(key) is str and key not in self.safe:
            if self._search(key):
                return REDACTED
            if len(self.safe) < _SEEN:  # bounded: keys made of data must not grow it for ever
                self.safe.add(key)
        return self.redact(value, depth + 1)
