"""Reading JSON Lines back, while they are written, rotated, compressed, cut or replaced."""

import contextlib
import gzip
import os
import zlib
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar, cast

from elastic_events.bus.errors import InputError
from elastic_events.sinks.rotated import is_there, list_parts
from elastic_events.sinks.stored import Damaged, NothingYet, Place, Reading, from_json

__all__ = ("CUT", "LONGEST", "JsonlPosition", "read_jsonl", "read_lines")

Line = TypeVar("Line")

#: How the reason ends of a last line that is not whole: perhaps not yet.
CUT = "the last line is cut short"

#: Bytes of the longest line that is read; a longer one is damaged.
LONGEST = 16 * 2**20


class JsonlPosition(NamedTuple):
    """How far a reader has come in a file and its parts."""

    part: int = 0  #: number of the part, as in its name; the file being written has the next free one
    offset: int = 0  #: bytes of that part, uncompressed
    line: int = 0  #: lines of that part
    last: tuple[int, int] = (0, 0)  #: bytes and CRC of the line before `offset`, by which the part is known again


def read_jsonl(
    path: str | os.PathLike[str], *, after: JsonlPosition | None = None, damaged: Damaged | None = None
) -> Reading[JsonlPosition]:
    """Read the records of `path` and of its rotated parts, oldest part first, in the order they were written.

    Works while another process writes. A line that holds no record is skipped and told to `damaged` by its number in its
    part. A last line without its newline counts if it is whole; otherwise it is left for the next look, which begins
    at the `position` of this one, once it is exhausted.

    Where the file is no more what it was at `after`, or parts went before they were read, that is told as line 0: a file
    that was cut or replaced is read from its start.

    Raises:
        NothingYet: there is no such file.
    """
    path = Path(path)
    _check(path)
    return Reading(after or JsonlPosition(), partial(_read, path, _ignore if damaged is None else damaged, from_json))


def read_lines(path: Path, parse: Callable[[bytes], Line], damaged: Damaged) -> Iterator[Line]:
    """Read the lines of `path` and its parts as `read_jsonl` does, and give what `parse` makes of each.

    Raises:
        NothingYet: there is no such file.
    """
    _check(path)
    return _read(path, damaged, parse, Place(JsonlPosition()))


def _check(path: Path) -> None:
    if not is_there(path):
        raise NothingYet(f"{path} does not exist")


def _ignore(line: int, reason: str) -> None:
    """Nobody wants to know."""


def _read(
    path: Path, damaged: Damaged, parse: Callable[[bytes], Line], place: Place[JsonlPosition]
) -> Generator[Line, None, None]:
    active, number, parts = _look(path)
    with active or contextlib.nullcontext():
        place.position = _resume(path, place.position, active, number, parts, damaged)
        for part_number, part in parts.items():
            if part_number >= place.position.part:
                file = _open_part(part)
                if file is None:
                    damaged(0, f"{part.name} is gone")
                    continue
                with file:
                    yield from _read_part(file, part_number, part.name, damaged, parse, place, last=False)
        if active is not None:
            yield from _read_part(active, number, path.name, damaged, parse, place, last=True)


def _resume(
    path: Path, at: JsonlPosition, active: BinaryIO | None, number: int, parts: dict[int, Path], damaged: Damaged
) -> JsonlPosition:
    """Return where to go on after `at`; what was lost in between is told."""
    if not at.part:
        return at
    with (_open_part(parts[at.part]) if at.part in parts else None) or contextlib.nullcontext() as part:
        if part is not None and _is_known(part, at):
            return at
    if active is not None and _is_known(active, at) and (at.offset or number == at.part):
        return at._replace(part=number)  # the parts before it may have gone
    later = min((other for other in (*parts, number) if other > at.part), default=None)
    if later is not None and at.part not in parts:
        gone = f"{path.name}.{at.part} is" if later == at.part + 1 else f"{path.name}.{at.part} to {later - 1} are"
        damaged(0, f"{gone} gone, with what was written after line {at.line}")
        return JsonlPosition(later)
    if active is None:
        return at
    damaged(0, f"{path.name} was cut or replaced after line {at.line}: read from its start")
    return JsonlPosition(number)


def _is_known(file: BinaryIO, at: JsonlPosition) -> bool:
    """Whether `file` is the one that was read up to `at`."""
    length, checksum = at.last
    try:
        file.seek(at.offset - length)
        return zlib.crc32(file.read(length)) == checksum
    except (OSError, EOFError, zlib.error):
        return False


def _look(path: Path) -> tuple[BinaryIO | None, int, dict[int, Path]]:
    """Return the file being written, its number, and the full parts, all of one moment between two rotations."""
    while True:
        try:
            active = _open(path)
        except FileNotFoundError:
            return None, 0, list_parts(path)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from None
        parts = list_parts(path)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(active.fileno())):
                return active, max(parts, default=0) + 1, parts
        active.close()


def _open(path: Path) -> BinaryIO:
    """Open a part, compressed or not. Its name says which: a plain one may begin with any garbage."""
    file = path.open("rb")
    return cast("BinaryIO", _Gzip(file)) if path.suffix == ".gz" else file


class _Gzip(gzip.GzipFile):
    """A compressed file that closes the file below it."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(fileobj=file, mode="rb")
        self.below = file

    def close(self) -> None:
        """Close both."""
        super().close()
        self.below.close()


def _open_part(part: Path) -> BinaryIO | None:
    plain = part.with_name(part.name.removesuffix(".gz"))
    for name in (plain, plain.with_name(f"{plain.name}.gz")):  # it may be compressed, or removed, meanwhile
        with contextlib.suppress(OSError):
            return _open(name)
    return None


def _read_part(
    file: BinaryIO,
    number: int,
    name: str,
    damaged: Damaged,
    parse: Callable[[bytes], Line],
    place: Place[JsonlPosition],
    *,
    last: bool,
) -> Generator[Line, None, None]:
    at = place.position if number == place.position.part else JsonlPosition(number)
    place.position, offset, line, last_line = at, at.offset, at.line, b""
    try:
        file.seek(offset)
        while data := file.readline(LONGEST):
            length, made, before, last_line = len(data), None, last_line, data
            whole = data.endswith(b"\n")
            if length >= LONGEST and not whole:
                while not whole and (data := file.readline(LONGEST)):
                    length, last_line = length + len(data), data
                    whole = data.endswith(b"\n")
                damaged(line + 1, f"{name}: longer than {LONGEST} bytes")
            elif data != b"\n":
                try:
                    made = parse(data)
                except InputError as error:
                    if whole or not last:
                        damaged(line + 1, f"{name}: {error}")
            if made is None and last and not whole:
                damaged(line + 1, f"{name}: {CUT}")  # somebody is writing it, or was killed there: for the next look
                last_line = before
                break
            offset += length
            line += whole
            if made is not None:
                yield made
    except (OSError, EOFError, zlib.error) as error:
        damaged(line + 1, f"{name}: the rest cannot be read: {error}")
    known = (len(last_line), zlib.crc32(last_line)) if last_line else at.last
    place.position = JsonlPosition(number, offset, line, known)
