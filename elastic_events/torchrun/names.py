"""Names of runs as names of files."""

import re

__all__ = ("plain",)


def plain(text: str) -> str:
    """Return `text` as the name of a file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)[:100]
