"""A traceback as people need it: the script's own frames, each run of a framework's folded to a line, and the place.

It reads texts, not frames: so it serves an exception, the one that a DataLoader's child put into the message of its parent's,
torch's error file and what `faulthandler` wrote.
"""

import os
import re
import sysconfig
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from elastic_events.bus.text import counted

__all__ = ("Folded", "Place", "fold", "is_framework")

_FRAME = re.compile(r'^[\s|]*File "(?P<file>.+?)", line (?P<line>\d+)(?:,? in (?P<function>.*\S))?\s*$')
_HEADER = re.compile(r"^[\s|+]*(?:Exception Group |Original )?Traceback \(most recent call last\):")
_MARKS = re.compile(r"^[\s|]*[~^][\s~^]*$")
_BRANCH = re.compile(r"^\s*\+[-+ ]*(?:[0-9.]+[- ]*)?$")
_INSTALLED = re.compile(r"[/\\](?:site|dist)-packages[/\\](?P<name>[^/\\.]+)")
_STDLIB = sysconfig.get_path("stdlib") + os.sep
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep

#: Lines of a folded traceback, and characters of one of them: what is in the middle is left out.
LINES, WIDTH = 40, 300


class Place(NamedTuple):
    """Where it happened, in the script's own code if any of that was on the way."""

    file: str
    line: int
    function: str | None


class Folded(NamedTuple):
    """A traceback, folded."""

    text: str
    place: Place | None


class _Frame(NamedTuple):
    place: Place
    source: str


@lru_cache(512)
def is_framework(file: str) -> bool:
    """Whether this is code that the user has installed, not written: a package, the standard library, ourselves."""
    return bool(_INSTALLED.search(file)) or file.startswith((_STDLIB, _OURS, "<frozen "))


def fold(trace: str) -> Folded:
    """Return the traceback that `trace` has, folded, and the place that its reader wants to see first."""
    blocks = list(_blocks(trace.splitlines()))
    lines: list[str] = []
    for parts in blocks:
        lines += _folded(parts)
    frames = [[part for part in parts if isinstance(part, _Frame)] for parts in blocks]
    return Folded("\n".join(_shorter(lines)), _place(trace, frames))


def _blocks(lines: Sequence[str]) -> Iterator[list[_Frame | str]]:
    """Give each traceback of a chain or a group, as its frames and its other lines, in order."""
    parts: list[_Frame | str] = []
    for at, line in enumerate(lines):
        frame = _FRAME.match(line)
        if _HEADER.match(line):
            if parts:
                yield parts
            parts = []
        elif frame:
            after = lines[at + 1].strip(" |") if at + 1 < len(lines) else ""
            follows = bool(after) and lines[at + 1].startswith(_indent(line) + "  ") and not _FRAME.match(lines[at + 1])
            place = Place(frame["file"], int(frame["line"]), frame["function"])
            parts.append(_Frame(place, after if follows else ""))
        elif not (_MARKS.match(line) or _BRANCH.match(line) or not line.strip(" |")):
            last = parts[-1] if parts else None
            if not (isinstance(last, _Frame) and line.strip(" |") == last.source):
                parts.append(line.strip(" |"))
    if parts:
        yield parts


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" |"))]


def _folded(parts: Sequence[_Frame | str]) -> Iterator[str]:
    hidden: list[_Frame] = []
    for part in parts:
        if isinstance(part, _Frame) and is_framework(part.place.file):
            hidden.append(part)
            continue
        yield from _hidden(hidden)
        hidden = []
        if isinstance(part, str):
            yield part[:WIDTH]
        else:
            inside = f" in {part.place.function}" if part.place.function else ""
            yield f"  {_near(part.place.file)}:{part.place.line}{inside}"
            if part.source:
                yield f"    {part.source[:WIDTH]}"
    yield from _hidden(hidden)


def _hidden(frames: Sequence[_Frame]) -> Iterator[str]:
    if frames:
        names = list(dict.fromkeys(_package(frame.place.file) for frame in frames))
        yield f"  ... {len(frames)} frame{'s' * (len(frames) > 1)} of {', '.join(names[:4])}"


def _package(file: str) -> str:
    installed = _INSTALLED.search(file)
    if installed:
        return installed["name"]
    return "elastic_events" if file.startswith(_OURS) else "Python"


def _near(file: str) -> str:
    """Return a path as it is short: from the working directory, where it is below."""
    try:
        here = os.getcwd() + os.sep
    except OSError:
        return file
    return file.removeprefix(here)


def _place(trace: str, blocks: Sequence[Sequence[_Frame]]) -> Place | None:
    """Return the innermost frame of the script: of the last exception of a chain, of the first one in a group."""
    order = list(reversed(blocks))
    if "Exception Group Traceback" in trace:
        order = [*blocks[1:], *blocks[:1]]
    if "(most recent call first)" in trace:
        order = [list(reversed(frames)) for frames in order]
    for frames in order:
        for frame in reversed(frames):
            if not is_framework(frame.place.file):
                return frame.place
    return next((frames[-1].place for frames in order if frames), None)


def _shorter(lines: list[str]) -> list[str]:
    gone = len(lines) - LINES
    if gone <= 0:
        return lines
    half = LINES // 2
    return [*lines[:half], f"  ... {counted(gone, 'more line')}", *lines[-half:]]
