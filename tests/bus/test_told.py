"""What a person is told of a lane: a sentence when it fails, is well again, loses, and what it lost; never a flood."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from elastic_events import EventBus, PermanentError, Record, Retry
from elastic_events.bus.tell import say
from elastic_events.testing import FailingSink, ListSink
from elastic_metrics import put_metric
from tests.programs import environment


@pytest.fixture
def anyio_backend() -> Any:
    """Run on trio with a clock that jumps to the next deadline."""
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class Server(FailingSink):
    """A sink that is away while `away`."""

    def __init__(self) -> None:
        super().__init__(lambda *_: OSError("connection refused") if self.away else None)
        self.away = False


async def test_lane_says_that_it_fails_and_is_well_again(capfd: pytest.CaptureFixture[str]) -> None:
    """A sink that goes away under way is told once, however long it takes, and once that it is back."""
    sink = Server()
    async with EventBus() as bus:
        bus.subscribe(sink, name="db")
        put_metric("m", 1)
        await bus.settled()
        assert capfd.readouterr().err == ""
        sink.away = True
        put_metric("m", 2)
        await anyio.sleep(100)
        assert capfd.readouterr().err == "elastic_events: sink 'db' fails, trying again: OSError: connection refused\n"
        sink.away = False
        await bus.settled()
        await anyio.sleep(1)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("elastic_events: sink 'db' is well again after 1")
    assert len(sink.payload) == 2


async def test_lane_that_is_well_again_just_before_the_end_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    """Who was told that a sink fails is told that it took all in the end, also where the bus closes in that moment."""
    sink = Server()
    sink.away = True
    async with EventBus() as bus:
        bus.subscribe(sink, name="db")
        put_metric("m", 1)
        await anyio.sleep(100)
        sink.away = False
    failed, well = capfd.readouterr().err.splitlines()
    assert failed == "elastic_events: sink 'db' fails, trying again: OSError: connection refused"
    assert well.startswith("elastic_events: sink 'db' is well again")
    assert len(sink.payload) == 1


async def test_failure_that_the_next_attempt_mends_is_none(capfd: pytest.CaptureFixture[str]) -> None:
    """One failed attempt among many is not worth a sentence."""
    sink = FailingSink(lambda _, attempt: OSError("hiccup") if attempt % 2 else None)
    async with EventBus() as bus:
        bus.subscribe(sink)
        for number in range(20):
            put_metric("m", number)
            await anyio.sleep(1)
    assert capfd.readouterr().err == ""


async def test_sink_that_comes_and_goes_is_no_flood(capfd: pytest.CaptureFixture[str]) -> None:
    """Away and back every two seconds for ten minutes, it is told as often as once a minute."""
    sink = Server()
    async with EventBus(interval=0.5) as bus:
        bus.subscribe(sink, retry=Retry(base=0.01, cap=0.1))
        for number in range(300):
            sink.away = not sink.away
            put_metric("m", number)
            await anyio.sleep(2)
        sink.away = False
        await bus.settled()
    lines = capfd.readouterr().err.splitlines()
    assert 10 <= len(lines) <= 22
    assert sum("fails" in line for line in lines) == len(lines) / 2


async def test_losses_are_told_as_they_begin_and_in_all_at_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    """A handler that raises on each record says so while it does, and what that came to, with the reason."""

    async def odd(record: Record) -> None:
        raise KeyError(record.name)

    async with EventBus(odd) as bus:
        for number in range(2000):
            put_metric("loss", number)
            if number % 100 == 0:
                await anyio.sleep(1)
        await bus.settled()
        assert repr(bus) == "<EventBus open, 1 lane, 2000 accepted, 0 dropped, 2000 failed>"
        assert "2000 lost (2000 failed (2000 KeyError))" in repr(bus.lanes[0])
    first, last = capfd.readouterr().err.splitlines()
    assert first.startswith("elastic_events: handler 'odd' loses records: so far 1 failed (1 KeyError)")
    total = "lost 2000 of 2000 records: 2000 failed (2000 KeyError); its last error: KeyError: 'loss'"
    assert last == f"elastic_events: handler 'odd' {total}"


async def test_what_the_dead_letters_keep_is_said_with_the_loss(capfd: pytest.CaptureFixture[str]) -> None:
    """Of the records that a sink refuses, the sentence says how many are kept: these are for `replay`."""

    async def odd(_record: Record) -> None:
        raise KeyError("no")

    async with EventBus() as bus:
        bus.subscribe(odd, dead_letters=ListSink())
        for number in range(3):
            put_metric("loss", number)
    last = capfd.readouterr().err.splitlines()[-1]
    assert "lost 3 of 3 records: 3 failed (3 KeyError; 3 kept in the dead letters); its last error" in last


async def test_what_a_later_record_replaced_is_no_loss(capfd: pytest.CaptureFixture[str]) -> None:
    """Coalesced records are neither told as lost nor counted with what is, as here the one that failed."""

    async def odd(record: Record) -> None:
        if record.name == "b":
            raise ValueError("no")

    bus = EventBus()
    lane = bus.subscribe(odd, coalesce=lambda one: one.name)
    for number in range(100):
        bus.put_metric("a", number)
    bus.put_metric("b", 1)
    async with bus:
        await bus.settled()
        assert repr(lane) == "<Lane odd, 1 delivered, 1 lost (1 failed (1 ValueError)), 0 pending>"
        assert repr(bus) == "<EventBus open, 1 lane, 101 accepted, 0 dropped, 1 failed>"
    last = capfd.readouterr().err.splitlines()[-1]
    assert "lost 1 of 101 records: 1 failed (1 ValueError); its last error" in last
    assert lane.stats().dropped == {"coalesced": 99}
    assert lane.stats().balanced


async def test_losses_of_ring_and_backlog_are_told(capfd: pytest.CaptureFixture[str]) -> None:
    """What was overwritten before it was read, and what fell out of a backlog, are told with their reasons."""
    sink = Server()
    sink.away = True
    async with EventBus(capacity=256) as bus:
        bus.subscribe(sink, name="db", backlog=100)
        for number in range(1000):
            put_metric("m", number)
        await anyio.sleep(1)
        sink.away = False
    err = capfd.readouterr().err
    assert "sink 'db' loses records: so far 744 overwritten" in err
    assert "lost 900 of 1000 records: 744 overwritten, 156 backlog" in err


async def test_what_the_disk_of_a_spool_said_is_told_with_its_losses(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its sink away and a disk that refuses its spool, a lane tells both reasons: one alone would hide where to look."""
    sink = Server()
    sink.away = True

    def refuse(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.EIO, "broken")

    async with EventBus(timeout=0) as bus:
        lane = bus.subscribe(sink, name="db", backlog=100, spool=tmp_path / "spool")
        await anyio.sleep(1)
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", refuse)
            for number in range(1000):
                put_metric("m", number)
            await anyio.sleep(100)
    why = "OSError: connection refused; spool: OSError: [Errno 5] broken"
    err = capfd.readouterr().err
    assert f" spool_failed ({why})" in err
    assert lane.stats().last_error == why
    assert lane.stats().dropped["spool_failed"] > 0


async def test_the_ledger_s_record_has_the_reasons() -> None:
    """The last record of a sink says by what records failed, and the last error, without the secret in it."""

    def fails(records: Sequence[Record], _attempt: int) -> BaseException | None:
        refused = [one for one in records if one.kind == "metric" and one.fields[0] == 7]
        return PermanentError("no: token=abcdefgh12345", refused) if refused else None

    sink = FailingSink(fails)
    async with EventBus(sink) as bus:
        for number in range(10):
            bus.put_metric("m", number)
    body = sink.records[-1].fields[0]
    assert (body["failed"], body["failed_by"]) == (1, {"PermanentError": 1})
    assert body["last_error"] == "PermanentError: no: token=[redacted]"


async def test_remarks_of_a_sink_are_said_once(capfd: pytest.CaptureFixture[str]) -> None:
    """What a sink finds when it opens, and a person should know, is said once, though it opens again."""

    class Finds(ListSink):
        def __init__(self) -> None:
            super().__init__()
            self.remarks: list[str] = []

        async def open(self) -> None:
            self.remarks.append("the stream is small") if not self.remarks else None

    async with EventBus(Finds()) as bus:
        await anyio.sleep(5)  # of a clock that jumps
        bus.put_metric("m", 1)
        await bus.settled()
    assert capfd.readouterr().err == "elastic_events: sink 'Finds' says: the stream is small\n"


def test_what_is_said_is_one_plain_line(capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever an error's text holds, it is one line of bounded length that commands no terminal and shows no secret."""
    say("a\nb \x1b[2J \u202e postgres://joe:hunter2@db " + "x" * 10_000)
    err = capfd.readouterr().err
    assert err.startswith(r"a\nb \x1b[2J \u202e postgres://[redacted]@db x")
    assert err.count("\n") == 1
    assert len(err) < 1100


@pytest.mark.parametrize(
    "secret", ["postgres://joe:hunter2hunter2@db", "sk-hunter2hunter2hunter2hunter2", "--password hunter2hunter2"]
)
def test_no_secret_is_cut_in_two_before_it_is_looked_for(secret: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Where a long sentence ends, no part of a secret is left that no longer looks like one."""
    for length in range(950, 1000):
        say("x" * length + " " + secret)
    assert "hunter" not in capfd.readouterr().err


REFUSED = """
async def refuse(_record):
    raise ValueError("no")

def speak():
    with elastic_events.EventBus(refuse):
        elastic_events.record(elastic_events.Event("a", elastic_events.EventSource.WORKER))
"""


async def test_an_error_of_megabytes_is_kept_in_a_few_thousand_characters() -> None:
    """What a library puts into an error, a statement with its values say, is cut before anybody looks for secrets in it."""
    secret = "hunter2-of-the-middle"
    words = f"INSERT {'x ' * 1000} token={secret} " + f"password: {secret}, " * 300_000 + f"key={secret}"
    sink = FailingSink(lambda *_: PermanentError(words))
    async with EventBus() as bus:
        lane = bus.subscribe(sink)
        put_metric("m", 1)
        assert await bus.flush(30)
        kept = lane.stats().last_error
    assert len(kept) < 5000
    assert kept.startswith("PermanentError: INSERT x x")
    assert "hunter2" not in kept


@pytest.mark.parametrize(
    "speak",
    [
        REFUSED,
        "from elastic_events.torchrun.shield import report\ndef speak(): report('x', ValueError('no'))",
        "from elastic_events.torchrun.plugin import _say\ndef speak(): _say(ValueError('no'))",
        "from elastic_events.observe import _say\ndef speak(): _say('no')",
    ],
    ids=["bus", "shield", "plugin", "observer"],
)
def test_nothing_is_said_into_a_file_that_took_the_place_of_stderr(tmp_path: Path, speak: str) -> None:
    """In a program without stderr the first file that it opens has the descriptor 2: no sentence goes in there."""
    program = """
        with open(sys.argv[1], "wb", buffering=0) as mine:
            assert mine.fileno() == 2
            speak()
            mine.write(b"mine")
    """
    file = tmp_path / "mine"
    code = f"import sys, elastic_events\n{speak}\n{dedent(program)}"
    run = ["/bin/sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", code, str(file)]
    subprocess.run(run, check=True, timeout=60)
    assert file.read_bytes() == b"mine"


def test_a_thread_tells_the_same(capfd: pytest.CaptureFixture[str]) -> None:
    """A bus in a background thread says what one in an event loop does."""

    async def odd(_record: Record) -> None:
        raise ValueError("no")

    with EventBus(odd):
        put_metric("m", 1)
    assert capfd.readouterr().err.splitlines()[-1] == (
        "elastic_events: handler 'odd' lost 1 of 1 record: 1 failed (1 ValueError); its last error: ValueError: no"
    )


async def test_a_sink_that_fails_as_it_is_closed_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    """What a sink kept for its end may be lost with it though it counts as delivered: why is said, once."""

    class Buffering(ListSink):
        async def aclose(self) -> None:
            raise OSError("no space left")

    async with EventBus(Buffering()):
        put_metric("m", 1)
    (said,) = capfd.readouterr().err.splitlines()
    assert said == "elastic_events: sink 'Buffering' failed as it was closed: OSError: no space left"


#: Two buses whose handlers take all that the program has, and give nothing back; each says as much on the way.
TWO = """
import os, signal, sys, time, anyio
from elastic_events import EventBus

HANDLER = {handler}
if HANDLER:
    signal.signal(signal.SIGINT, lambda *_: sys.exit(3))

async def first(batch):
    os.write(1, b"taken\\n")
    {wait}(60)

async def second(batch):
    await first(batch)

for handler in (first, second):
    bus = EventBus(handler, recorder=False)
    bus.open()
    for number in range(5):
        bus.put_metric("m", number)
"""


@pytest.mark.parametrize(("times", "wait"), [(1, "await anyio.sleep"), (1, "time.sleep"), (2, "time.sleep")])
@pytest.mark.parametrize("handler", [False, True])
def test_ctrl_c_at_the_exit_ends_each_wait_and_each_tells_what_it_lost(
    times: int, wait: str, tmp_path: Path, *, handler: bool
) -> None:
    """It ended the first wait with a traceback, and nobody said what was lost. A second one ends what a blocked handler costs."""
    code = TWO.format(wait=wait, handler=handler)
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), stdout=-1, stderr=-1, text=True
    ) as program:
        assert program.stdout is not None
        assert [program.stdout.readline() for _ in range(2)] == ["taken\n"] * 2
        time.sleep(0.5)  # its main thread is at its end by then
        for _ in range(times):
            program.send_signal(signal.SIGINT)
            time.sleep(0.3)
        _, said = program.communicate(timeout=20)
    told = (
        "lost 5 of 5 records: 5 shutdown_deadline"
        if "await" in wait
        else "did not deliver 5 records by the deadline: lost"
    )
    if times == 1 or not handler:  # two exceptions of the program's own are its own
        assert [said.count(f"elastic_events: handler '{name}' {told}") for name in ("first", "second")] == [1, 1]
    assert handler or "Traceback" not in said
