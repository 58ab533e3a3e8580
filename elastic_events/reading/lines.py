"""What a story needs of JSON Lines, and no more: of a metric only when it was, and of one context or mark its text once."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from elastic_events.bus.context import Context
from elastic_events.bus.errors import InputError
from elastic_events.bus.record import Record
from elastic_events.reading.builder import Builder, Marks
from elastic_events.reading.speaker import Speaker
from elastic_events.sinks.jsonl_read import read_lines
from elastic_events.sinks.stored import FIELDS, Head, Number, from_json

__all__ = ("lines_of", "scan_lines")

#: Different texts of contexts that are kept.
_KEPT = 65_536

#: Lines after which it is told how much was read.
_MANY = 16_384


_MISSING = msgspec.Raw(b"null")


class _Row(Head, gc=False):
    """A stored line, without what no story needs."""

    time_ns: Number
    monotonic_ns: Number
    context: msgspec.Raw
    source: Any = None
    metadata: msgspec.Raw = _MISSING
    message: Any = None
    ledger: Any = None


_row = msgspec.json.Decoder(_Row).decode
_context = msgspec.json.Decoder(Context).decode
_any = msgspec.json.Decoder().decode


def scan_lines(path: Path, builder: Builder, damaged: Callable[[int, str], object]) -> None:
    """Give `builder` what stands in `path` and its rotated parts; a line that holds no record is told to `damaged`.

    Raises:
        InputError: there is no such file.
    """
    taker = _Taker(builder)
    total = 0
    with suppress(FileNotFoundError):  # it is being put aside, and its parts are read
        total = path.stat().st_size
    for count, _ in enumerate(read_lines(path, taker.take, damaged)):
        if not count % _MANY:
            builder.progress(min(1.0, taker.bytes / (total or 1)))


def lines_of(path: Path, names: Iterable[str]) -> Iterator[Record]:
    """Give the records of the processes of these identities, and perhaps others: a line without any of them is not decoded.

    Raises:
        InputError: there is no such file.
    """
    # JSON may write in several ways what is no letter, digit or hyphen: such an identity is looked for in every line.
    marks = [name.encode() if name.isascii() and name.replace("-", "").isalnum() else b"" for name in names]

    def parse(line: bytes) -> Record | None:
        return from_json(line) if any(mark in line for mark in marks) else None

    yield from filter(None, read_lines(path, parse, lambda _line, _reason: None))


class _Taker:
    """Gives a builder one line after the other."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder
        self.bytes = 0  # of all lines
        self._known: dict[bytes, Speaker] = {}
        self._marks = Marks()

    def take(self, line: bytes) -> bool:
        """Take one line.

        Raises:
            InputError: it holds no record.
        """
        self.bytes += len(line)
        try:
            row = _row(line)
            if row.kind == "ledger":
                self._builder.ledger(_context(row.context), row.seq, row.ledger, row.time_ns)
                return True
            text = bytes(row.context)
            speaker = self._known.get(text)
            if speaker is None:
                speaker = self._meet(text, row)
            if row.kind == "metric":
                speaker.seen(row.time_ns, row.monotonic_ns)
            elif row.kind == "rdzv":
                if self._builder.first(speaker, row.name, row.seq):
                    speaker.message(row.time_ns, row.message, row.monotonic_ns)
            else:
                self._event(speaker, row)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise InputError(f"not a stored record: {error}") from None
        return True

    def _meet(self, text: bytes, row: _Row) -> Speaker:
        if row.kind not in FIELDS:
            raise InputError(f"not a stored record: its kind is {row.kind!r}")
        if len(self._known) >= _KEPT:
            self._known.clear()
        speaker = self._known[text] = self._builder.heard(_context(text), row.time_ns)
        return speaker

    def _event(self, speaker: Speaker, row: _Row) -> None:
        if row.kind != "event" or row.metadata is _MISSING:
            why = f"its kind is {row.kind!r}" if row.kind != "event" else "its metadata is missing"
            raise InputError(f"not a stored record: {why}")
        if row.name not in ("step.started", "step.ended"):
            if self._builder.first(speaker, row.name, row.seq):
                text = bytes(row.metadata)
                speaker.event(row.time_ns, row.name, row.source, _any(text), row.monotonic_ns, text.decode())
            return
        mark = self._marks[bytes(row.metadata)]
        if self._builder.first(speaker, "", row.seq):
            speaker.step(row.name == "step.started", row.time_ns, mark, row.monotonic_ns)
