"""The console: nothing leaves its line, commands the terminal, or holds up the loop."""

import contextlib
import fcntl
import os
import pty
import re
import select
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_events.bus.bus import EventBus
from elastic_events.bus.context import Context
from elastic_events.bus.errors import ConfigError, PermanentError
from elastic_events.bus.record import Record, record_of
from elastic_events.sinks.console import ConsoleSink, escape, format_record
from tests.sinks.factory import event, ledger, metric, metrics, rdzv
from tests.streams import STREAMS, load

HOSTILE = {
    "newline": "a\nb",
    "carriage return": "a\rb",
    "crlf forging a record": "ok\r\n2026-01-01 00:00:00.000 rank 0 job.succeeded AGENT",
    "vertical tab and form feed": "a\x0b\x0cb",
    "nul": "a\x00b",
    "backspaces": "secret\b\b\b\b\b\b",
    "clear screen": "\x1b[2J\x1b[H",
    "set title": "\x1b]0;owned\x07",
    "answer back": "\x1b[6n",
    "hyperlink": "\x1b]8;;http://example.org\x1b\\text\x1b]8;;\x1b\\",
    "delete": "a\x7fb",
    "c1 csi": "\x9b2J",
    "c1 osc": "\x9d0;owned\x9c",
    "next line": "a\x85b",
    "line separator": "a\u2028b",
    "paragraph separator": "a\u2029b",
    "right-to-left override": "\u202egnp.exe",
    "isolates": "\u2066a\u2069",
    "arabic letter mark": "\u061ca",
    "left-to-right mark": "\u200ea\u200f",
    "zero width": "a\u200bb\ufeff",
    "tag characters": "a\U000e0041\U000e007f",
    "interlinear": "\ufff9a\ufffb",
    "private use": "\ue000",
    "lone surrogate": "\ud800",
    "a backslash that looks escaped": "\\n\\x1b[2J",
    "quotes": "a\"b'c",
}
_FORBIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def harmless(line: str) -> bool:
    """Whether a line has only characters that show as themselves."""
    return not any(unicodedata.category(character) in _FORBIDDEN for character in line)


def shapes(text: Any) -> list[Record]:
    """Records that hold `text` wherever text may be."""
    key = str(text) if isinstance(text, list) else text
    return [
        *(
            event(1, {"key": text}),
            event(1, {key: "value"}),
            event(1, {"a": [text, {key: text}]}),
            event(1, name=text),
        ),
        *(event(1, fields=(text, 0, {})), event(1, fields=("AGENT", 0, text)), metric(1, text), metric(1, 1, text)),
        *(
            metric(1, channel=text),
            rdzv(1, text),
            rdzv(1, fields=(text,) * 9),
            ledger(1, text),
            ledger(1, fields=({"a": text},)),
        ),
    ]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_escaped_wherever_it_stands(text: str) -> None:
    """F64: line ends, ANSI, C0, C1, U+2028, U+2029 and bidirectional marks never reach a terminal from any field."""
    for record in shapes(text):
        line = format_record(record)
        assert harmless(line), line
        if text.isascii() and not text.isprintable():
            assert text not in line
        assert harmless(re.sub(r"\x1b\[\d+m", "", format_record(record, color=True)))


@given(st.text() | st.binary() | st.floats() | st.integers() | st.none() | st.lists(st.text()))
def test_any_value_gives_one_harmless_line(value: Any) -> None:
    """F58, F64: every record has a line, and it is one."""
    for record in shapes(value):
        assert harmless(format_record(record))
    odd = record_of("event", 1, 2**90, 0, value, value, (value,) * 3, Context())
    assert harmless(format_record(odd))


@given(st.text(), st.text())
def test_escaping_is_unambiguous(first: str, second: str) -> None:
    """F64: two texts that differ look different, so that nothing can pass for an escape."""
    assert (escape(first) == escape(second)) == (first == second)
    assert escape(repr(first)) != escape(first)
    assert escape("\\n") != escape("\n")


def test_a_line_says_when_who_and_what() -> None:
    """The line is time, rank, name and fields, in words a person can search for."""
    assert re.fullmatch(
        r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} rank 3    worker\.failed WORKER exit_code=-9 message="out of memory" first=true',
        format_record(event(1, {"exit_code": -9, "message": "out of memory", "first": True})),
    )
    assert format_record(metric(1)).endswith("rank 3    loss = 0.5 group=train")
    assert format_record(rdzv(1, "joined round 1")).endswith(
        'RUNNING "joined round 1" run_id=run hostname=host pid=7 local_id=0'
    )
    assert "[recovered]" in format_record(event(1, recovered=True))
    assert " pid 9 " in format_record(event(1, context=Context(pid=9)))


@pytest.mark.parametrize("stream", STREAMS)
def test_captured_torchrun_streams_are_one_line_each(stream: str) -> None:
    """F64: every record of a real torchrun run, tracebacks included, is one harmless line with its name."""
    for record in load(stream):
        line = format_record(record)
        assert harmless(line)
        assert record.name in line


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe: what to read, what to write."""
    ends = os.pipe()
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


async def test_records_are_printed_in_order_without_colour(pipe: Any) -> None:
    """A pipe gets one plain line a record."""
    sink = ConsoleSink(pipe[1])
    await sink.open()
    await sink.write(metrics(3))
    await sink.aclose()
    os.close(pipe[1])
    lines = os.read(pipe[0], 65536).decode().splitlines()
    assert lines == [format_record(record) for record in metrics(3)]


async def test_a_terminal_gets_colour_unless_the_user_said_no(monkeypatch: pytest.MonkeyPatch) -> None:
    """Colour is for terminals; NO_COLOR and a dumb terminal turn it off, `color=` decides by itself."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    reader, terminal = pty.openpty()

    async def shown(**options: Any) -> str:
        sink = ConsoleSink(terminal, **options)
        await sink.open()
        await sink.write([event(1)])
        await sink.aclose()
        return os.read(reader, 65536).decode()

    try:
        assert "\x1b[31m" in await shown()
        assert "\x1b[" not in await shown(color=False)
        monkeypatch.setenv("NO_COLOR", "1")
        assert "\x1b[" not in await shown()
        assert "\x1b[31m" in await shown(color=True)
        monkeypatch.delenv("NO_COLOR")
        monkeypatch.setenv("TERM", "dumb")
        assert "\x1b[" not in await shown()
    finally:
        os.close(reader)
        os.close(terminal)


def fill(descriptor: int) -> None:
    """Fill a pipe that nobody reads."""
    os.set_blocking(descriptor, False)
    try:
        while True:
            os.write(descriptor, b"x" * 4096)
    except BlockingIOError:
        pass
    os.set_blocking(descriptor, True)


async def test_a_pipe_that_nobody_reads_holds_up_its_own_lane_only(pipe: Any) -> None:
    """F34, F35: the loop runs on, other handlers get everything, and closing ends by its deadline."""
    fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, 4096)
    fill(pipe[1])
    seen: list[int] = []

    async def other(record: Record) -> None:
        seen.append(record.seq)

    async with EventBus(ConsoleSink(pipe[1]), other, timeout=0.2, interval=0.001) as bus:
        for step in range(50):
            bus.put_metric("loss", step)
        with anyio.fail_after(10):
            while len(seen) < 50:
                await anyio.sleep(0.001)
        result = await bus.aclose()
    assert seen == list(range(50))
    assert result.undelivered == {"console": 50}
    while select.select([pipe[0]], [], [], 0.2)[0]:
        os.read(pipe[0], 65536)  # let the sink's thread end


async def test_a_reader_that_is_slow_gets_every_byte(pipe: Any) -> None:
    """A descriptor that somebody made non-blocking loses nothing when it is full for a while."""
    fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(pipe[1], False)
    sink = ConsoleSink(pipe[1])
    await sink.open()
    got = b""

    async def read() -> None:
        nonlocal got
        while got.count(b"\n") < 500:
            got += await anyio.to_thread.run_sync(os.read, pipe[0], 1000)

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await sink.write(metrics(500))
    await sink.aclose()
    assert got.decode().splitlines() == [format_record(record) for record in metrics(500)]


async def test_a_reader_that_is_gone_is_a_permanent_error(pipe: Any) -> None:
    """F41: nobody will read what is tried again: all records of the batch are refused at once."""
    sink = ConsoleSink(pipe[1])
    await sink.open()
    os.close(pipe[0])
    batch = metrics(5)
    with pytest.raises(PermanentError, match="nobody reads") as caught:
        await sink.write(batch)
    assert caught.value.rejected == tuple(batch)
    await sink.aclose()


async def test_a_process_without_stderr_is_told_so() -> None:
    """F23: a daemon that closed its descriptors gets a sentence when the bus opens."""
    with pytest.raises(ConfigError, match="no descriptor 9999"):
        await ConsoleSink(9999).open()
    with pytest.raises(ConfigError, match="stderr or stdout"):
        ConsoleSink("stdlog")  # type: ignore[arg-type]


def test_replacing_or_locking_sys_stderr_does_not_matter() -> None:
    """F19: the sink writes while another thread holds the lock of `sys.stderr`, and where `sys.stderr` is gone."""
    script = """
import sys, threading, elastic_events
class Held:
    def __init__(self): self.lock = threading.Lock()
    def write(self, text): self.lock.acquire(); self.lock.acquire()
    def flush(self): pass
sys.stderr = Held()
threading.Thread(target=print, args=("x",), kwargs={"file": sys.stderr}, daemon=True).start()
with elastic_events.EventBus("console:"):
    elastic_events.record(elastic_events.Event("job.started", elastic_events.EventSource.AGENT))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert "job.started AGENT" in result.stderr
