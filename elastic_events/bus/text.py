"""Texts as UTF-8 that can be stored: whole, or their two ends and a note of what is missing between them; and counts in words."""

from collections.abc import Callable
from typing import NamedTuple

__all__ = ("LONG", "LongText", "both_ends", "count_bytes", "counted", "head_of", "noun", "tail_of", "utf8", "whole")

#: Characters of a text that are kept, at most.
LONG = 16_384

#: Characters beyond a cut that are looked at for a secret that reaches over it.
_MARGIN = 512

#: Bytes of what stands where a text was cut.
_MARK = 40


class LongText(NamedTuple):
    """A long text: its two ends, and how many characters between them are gone."""

    head: str
    gone: int
    tail: str

    @property
    def size(self) -> int:
        """Bytes that it takes with nothing more cut."""
        return count_bytes(self.head) + count_bytes(self.tail) + (_MARK if self.gone else 0)

    def cut(self, room: float) -> str:
        """Return as much of both ends as `room` bytes hold, and between them how much is missing."""
        if self.size <= room and not self.gone:
            return self.head + self.tail
        length = len(self.head) + len(self.tail)
        keep = max(int(min((room - _MARK) * length / self.size, length)), 0)
        while True:
            head, tail = self.head[: keep - keep // 2], self.tail[len(self.tail) - keep // 2 :]
            if count_bytes(head) + count_bytes(tail) + _MARK <= room or keep == 0:  # characters differ in their bytes
                return f"{head}[truncated: {self.gone + length - keep} more]{tail}"
            keep = keep * 3 // 4


def head_of(text: str, length: int, cut: Callable[[str], str]) -> str:
    """Return the begin of a text; a secret that reaches beyond it shows by what is behind."""
    behind = min(len(text) - length, _MARGIN)
    return cut(text[: length + _MARGIN])[: -behind or None][:length]


def tail_of(text: str, length: int, cut: Callable[[str], str]) -> str:
    """Return the end of a text. It is looked at from the begin of the word or of the key that reaches into it."""
    start = len(text) - length
    before = start - _MARGIN
    key = text.rfind("-----BEGIN ", max(start - LONG, 0), start)
    if key >= 0:
        return cut(text[key:])[-length:]
    begin = max(text.rfind(mark, max(before - LONG // 4, 0), max(before, 0)) for mark in " \n")
    begin = begin if begin >= 0 else max(before, 0)
    return cut(text[begin:])[start - begin :][-length:]  # what is before may have its name, or its begin, farther ahead


def whole(text: str) -> str:
    """Return `text` as it is: a cut that takes no secrets out."""
    return text


def utf8(text: str) -> str:
    """Return text that UTF-8 can hold: a lone surrogate as its escape."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace").decode()
    return text


def count_bytes(text: str) -> int:
    """Return the length of `text` in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def counted(count: int, one: str, many: str = "") -> str:
    """Return "1 node", "3 nodes"; `many` where that is not `one` and an s."""
    return f"{count:,} {noun(count, one, many)}"


def noun(count: int, one: str, many: str = "") -> str:
    """Return the word for `count` of them, where the number itself stands plain, as in a repr."""
    return one if count == 1 else many or f"{one}s"


def both_ends(text: str, most: int, cut: Callable[[str], str] = whole) -> str:
    """Return what `cut` leaves of `text`, of a long one `most` characters of both ends."""
    if len(text) <= most:
        return cut(text)
    keep = most - _MARK
    return f"{head_of(text, keep // 2, cut)}[truncated: {len(text) - keep} more]{tail_of(text, keep // 2, cut)}"
