"""What a record says, on its way to a terminal: no field may command it, forge a line or fill the screen."""

import re
from typing import Any, TypeVar

import msgspec

from elastic_events.sinks.console import escape

__all__ = ("MOST", "json_shown", "sentence", "shown")

#: Characters of one field that are shown.
MOST = 400

_UNSAFE = re.compile(r"[^ -~]")
_ODD_JSON = re.compile(r"[^\n -~]")

Answer = TypeVar("Answer")


def shown(answer: Answer) -> Answer:
    """Return an answer, or a part of one, with each of its texts escaped and cut: what a terminal may be given.

    Every drawing for a terminal begins with it; --json and the pages have texts of their own kind.
    """
    value: Any = answer
    if isinstance(value, str):
        return _field(value)  # type: ignore[return-value]
    if isinstance(value, list | tuple):
        parts = [shown(item) for item in value]
        if any(new is not old for new, old in zip(parts, value, strict=True)):
            value = type(value)(parts)
    elif isinstance(value, dict):
        items = list(value.items())
        value = dict(new) if (new := shown(items)) is not items else value
    elif isinstance(value, msgspec.Struct):
        fields = ((name, getattr(value, name)) for name in value.__struct_fields__)
        changed = {name: new for name, old in fields if (new := shown(old)) is not old}
        value = msgspec.structs.replace(value, **changed) if changed else value
    return value  # type: ignore[no-any-return]


def sentence(text: str) -> str:
    """Return a sentence of ours that names what users gave: one line, and nothing in it that is not printable."""
    cut = text if len(text) <= 4 * MOST else f"{text[: 4 * MOST]}…"
    return _UNSAFE.sub(lambda match: match[0] if match[0].isprintable() else escape(match[0]), cut)


def json_shown(document: str) -> str:
    """Return a JSON document whose texts hold printable characters only; it says the same."""
    return _ODD_JSON.sub(lambda match: match[0] if match[0].isprintable() else _units(match[0]), document)


def _field(text: str) -> str:
    cut = text if len(text) <= MOST else f"{text[:MOST]}… ({len(text) - MOST:,} more)"
    safe = escape(cut)
    return text if safe == text else safe


def _units(character: str) -> str:
    """Return a character as JSON escapes it: one UTF-16 unit, or two (RFC 8259, 7)."""
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
