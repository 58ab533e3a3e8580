"""The console: one line a record, of which nothing can leave its line, forge another or command the terminal."""

import errno
import os
import re
import select
import stat
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import SplitResult

from elastic_events.bus.errors import ConfigError, PermanentError
from elastic_events.bus.record import Record
from elastic_events.sinks.blocking import BlockingSink
from elastic_events.sinks.options import Options
from elastic_events.sinks.stored import FIELDS, from_json, strict_json, to_json

__all__ = ("ConsoleSink", "escape", "format_record", "from_url", "wants_color")

_DESCRIPTORS = {"stdout": 1, "stderr": 2}
_DIM, _RED, _GREEN, _BOLD, _RESET = "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[1m", "\x1b[0m"
_BAD = re.compile(r"fail|died|error|kill", re.IGNORECASE)
_GOOD = re.compile(r"succe|completed", re.IGNORECASE)
_BARE = re.compile(r"[A-Za-z0-9_./:@%+,;~*<>()\[\]{}|&^$#!?-]+")
_UNSAFE = re.compile(r"[^ -\[\]-~]")  # a backslash, and all that is not printable ASCII
_UNSAFE_JSON = re.compile(r"[^ -~]")  # JSON has escaped its own backslashes


class ConsoleSink(BlockingSink):
    """Prints records to stderr or stdout.

    Delivered means: the terminal, file or pipe behind the descriptor took the bytes; whether anybody read them is not
    known. What a timeout interrupts half-way may be printed again, in part. In a pipe that several processes write to, as
    the log of a container, lines of up to 4096 bytes stay whole.

    It writes to a copy of the descriptor, never through `sys.stderr`, whose lock a thread that is frozen at interpreter
    exit would hold for ever (F19). A reader that does not read stops this sink's thread, not the event loop.

    Args:
        stream: "stderr", "stdout", or a descriptor.
        color: True or False; None for what the terminal can.
    """

    name = "console"
    thread_name = "elastic-events console"

    def __init__(self, stream: Literal["stderr", "stdout"] | int = "stderr", *, color: bool | None = None) -> None:
        super().__init__()
        if isinstance(stream, str) and stream not in _DESCRIPTORS:
            raise ConfigError(f"console: writes to stderr or stdout, not to {stream!r}")
        self.stream = stream
        self.color = color
        self._descriptor = -1
        self._colored = False

    def __repr__(self) -> str:
        return f"<ConsoleSink {self.stream}>"

    def open_now(self) -> None:
        """Copy the descriptor."""
        source = _DESCRIPTORS[self.stream] if isinstance(self.stream, str) else self.stream
        try:
            self._descriptor = os.dup(source)
        except OSError:
            raise ConfigError(f"{self.name}: this process has no {_shown(self.stream)}") from None
        self._colored = wants_color(self._descriptor) if self.color is None else self.color

    def write_now(self, records: Sequence[Record]) -> None:
        """Print `records`; waits while nobody reads."""
        lines = self.lines(records)
        for part in _whole_lines(lines) if _is_pipe(self._descriptor) else (memoryview(lines),):
            self._put(part, records)

    def _put(self, view: memoryview, records: Sequence[Record]) -> None:
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:  # somebody who shares the descriptor made it non-blocking
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
            except OSError as error:
                if error.errno in (errno.EPIPE, errno.EBADF):
                    raise PermanentError(f"nobody reads {_shown(self.stream)} any more", records) from None
                raise

    def lines(self, records: Sequence[Record]) -> bytes:
        """Return what is printed for `records`."""
        text = "".join(f"{format_record(record, color=self._colored)}\n" for record in records)
        return text.encode(errors="backslashreplace")

    def close_now(self) -> None:
        """Close the copy."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def abandon(self) -> None:
        """Close the child's copy."""
        self.close_now()


def _is_pipe(descriptor: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError:
        return False  # the write says why


def _whole_lines(lines: bytes) -> Iterator[memoryview]:
    """Yield whole lines, as many as a pipe takes at once: what others write to it never comes between (pipe(7)).

    A line that is longer than that by itself is alone.
    """
    view, start = memoryview(lines), 0
    while start < len(lines):
        end = lines.rfind(b"\n", start, start + select.PIPE_BUF) + 1 or lines.find(b"\n", start) + 1 or len(lines)
        yield view[start:end]
        start = end


def _shown(stream: str | int) -> str:
    """Return what a person calls a stream."""
    names = {number: name for name, number in _DESCRIPTORS.items()}
    return stream if isinstance(stream, str) else names.get(stream, f"descriptor {stream}")


def from_url(url: SplitResult) -> ConsoleSink:
    """Return the sink of `console:`, `console:stdout` or `console:stderr?color=1`; see `sinks.urls`."""
    if url.netloc or url.path not in ("", *_DESCRIPTORS):
        wrong = f"{url.netloc.rpartition('@')[2]}{url.path}"
        raise ConfigError(f"console: write console:, console:stderr or console:stdout, not console:{wrong}")
    options = Options(url)
    color = options.flag("color", False) if "color" in options.values else None
    options.known.append("color")
    options.finish()
    return ConsoleSink("stdout" if url.path == "stdout" else "stderr", color=color)


def wants_color(descriptor: int) -> bool:
    """Whether `descriptor` is a terminal that shows colour, and the user did not say NO_COLOR (no-color.org)."""
    return os.isatty(descriptor) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def escape(text: str) -> str:
    """Return `text` with every character escaped that is not printable: controls, line ends, bidirectional marks (F64).

    A backslash is doubled, so that nothing can pass for an escape that it is not.
    """
    return _UNSAFE.sub(_escape_one, text)


def format_record(record: Record, *, color: bool = False) -> str:
    """Return `record` as one line, without its newline: local time, who, name, fields. Total."""
    try:
        return _line(record, color)
    except (TypeError, ValueError, LookupError, AttributeError):
        # Fields of a shape that no emitter makes: the stored form of them is total.
        return _line(from_json(to_json(record)), color)


def _line(record: Record, color: bool) -> str:
    name = escape(record.name)
    head = f"{_time(record.time_ns)} {_who(record):<9} "
    if color:
        state = record.fields[4] if record.kind == "rdzv" else ""
        paint = _RED if _BAD.search(f"{name}{state}") else _GREEN if _GOOD.search(f"{name}{state}") else _BOLD
        head, name = f"{_DIM}{head}{_RESET}", f"{paint}{name}{_RESET}"
    return f"{head}{name}{_RECOVERED if record.recovered else ''}{_FORMATS[record.kind](record)}"


_RECOVERED = " [recovered]"


def _event(record: Record) -> str:
    source, _, metadata = record.fields
    return f" {_value(source)}{_pairs(metadata)}"


def _metric(record: Record) -> str:
    group = "" if record.channel in ("torchelastic", None) else f" group={_value(record.channel)}"
    return f" = {_value(record.fields[0])}{group}"


def _rdzv(record: Record) -> str:
    fields = dict(zip(FIELDS["rdzv"], record.fields, strict=True))
    state, message = fields.pop("node_state"), fields.pop("message")
    rest = {key: value for key, value in fields.items() if value not in (None, "")}
    return f" {_value(state)} {_quoted(str(message))}{_pairs(rest)}"


def _ledger(record: Record) -> str:
    return f" {_value(record.channel)}{_pairs(record.fields[0])}"


_FORMATS = {"event": _event, "metric": _metric, "rdzv": _rdzv, "ledger": _ledger}


def _pairs(values: Any) -> str:
    if not isinstance(values, dict):
        return f" {_value(values)}"
    return "".join(f" {_value(key)}={_value(value)}" for key, value in values.items())


def _value(value: Any) -> str:
    """Return a value that shows its type: a bare word or a number, anything else as escaped JSON."""
    if isinstance(value, str):
        return value if _BARE.fullmatch(value) else _quoted(value)
    if type(value) is float:
        return repr(value)
    return _UNSAFE_JSON.sub(_escape_one, strict_json(value).decode())


def _quoted(text: str) -> str:
    return '"' + escape(text).replace('"', '\\"') + '"'


def _escape_one(match: re.Match[str]) -> str:
    character = match[0]
    if character == "\\":
        return "\\\\"
    if character.isprintable():
        return character
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _time(time_ns: int) -> str:
    try:
        local = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_ns // 10**9))
        offset = _offset(time_ns // (_HALF_HOUR * 10**9))
    except (OverflowError, OSError, ValueError):
        return str(time_ns)
    return f"{local}.{time_ns // 10**6 % 1000:03}{offset}"


_HALF_HOUR = 1800


@lru_cache(maxsize=64)
def _offset(half_hour: int) -> str:
    """Return the offset to UTC in the hours that the end of summer time makes twice, else nothing."""
    at = half_hour * _HALF_HOUR
    local = time.localtime(at)
    twice = any(time.localtime(at + shift)[:5] == local[:5] for shift in (-3600, -1800, 1800, 3600))
    return time.strftime("%z", local) if twice else ""


def _who(record: Record) -> str:
    context = record.context
    return f"rank {context.rank}" if context.rank is not None else f"pid {context.pid}"
