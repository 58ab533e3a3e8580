"""Nothing that a record holds reaches a terminal as it is: no command makes an exception."""

import json
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import msgspec
import pytest

from elastic_events.bus.record import Record
from elastic_events.reading.shown import json_shown, sentence, shown
from elastic_events.sinks.console import ConsoleSink
from tests.programs import environment
from tests.reading.runs import Run, two_attempts
from tests.reading.test_source import database, jsonl
from tests.records import changed

#: A window's title, a line of its own, bidirectional marks, a one-byte CSI, a line separator, a lone surrogate.
NASTY = "\x1b]0;owned\x07\r\nForged line.\n\u202eabc\u2066\x9b31m\u2028\x7f\x00\ud800"

ALL = """
import sys
from elastic_events.cli import main
for line in sys.stdin.read().splitlines():
    sys.argv = ["elastic-events", *eval(line)]
    try:
        main()
    except SystemExit as end:
        print("==== exit", end.code, file=sys.stderr)
"""


def commands(lines: list[tuple[str, ...]], cwd: Path, **environ: str) -> tuple[str, str]:
    """Run `elastic-events` once for each of `lines`, in one process; return stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALL],
        input="\n".join(map(repr, lines)),
        cwd=cwd,
        env=environment(COLUMNS="100", **environ),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stderr.count("==== exit") == len(lines), done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def spoilt(value: Any, long: str) -> Any:
    """Return `value` with something nasty behind each text in it, but for names that mean something."""
    if isinstance(value, str):
        return value if value in ("failed", "succeeded", "SIGKILL", "SIGTERM") else f"{value}{long}"
    if isinstance(value, dict):
        return {key: spoilt(item, long) for key, item in value.items()} | {f"key{long}": long, "deep": [{long: [long]}]}
    if isinstance(value, list | tuple):
        return type(value)(spoilt(item, long) for item in value)
    return value


def nasty_records(long: str) -> list[Record]:
    """Return a run that failed, and a record of each kind, with something nasty in each field."""
    run = two_attempts()
    agent = run.agent()
    run.tell(21, agent, "job.failed", reason="because")
    run.failed(20.5, agent, 1, 0, exit_code=1, error="boom\nlast line", message="boom")
    records = []
    for record in run.records:
        context = msgspec.structs.replace(
            record.context, run_id="run" + long, host=f"a{long}", process=f"{record.context.process}{long}", role=long
        )
        event = changed(record, context=context, channel=long, fields=spoilt(record.fields, long))
        records.append(event)
    last = records[-1]
    rdzv = ("run" + long, f"message{long}", long, 1, f"FAILED{long}", long, 0, 0, long)
    kinds: list[tuple[str, tuple[Any, ...]]] = [
        ("event", (long, 0, {long: long})),
        ("event", (long, 0, long)),
        ("metric", (long,)),
        ("metric", (1.0,)),
        ("rdzv", rdzv),
        (
            "ledger",
            (
                {"lane": long, "accepted": 1, "delivered": long, "dropped": {long: 1}, "failed": long}
                | {"failed_by": {long: 1}, "last_error": long},
            ),
        ),
    ]
    for seq, (kind, fields) in enumerate(kinds, 1000):
        records.append(changed(last, kind=kind, seq=seq, name=f"n{long}", fields=fields))
    return records


def assert_plain(text: str, *, longest: int | None = None) -> None:
    """Assert that `text` is lines of printable characters, none of them forged."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)  # our own colours
    odd = {unicodedata.name(char, repr(char)) for char in text if not char.isprintable() and char != "\n"}
    assert not odd
    assert not [line for line in text.splitlines() if line.startswith("Forged")]
    if longest is not None:
        assert max(map(len, text.splitlines())) <= longest


@pytest.mark.parametrize("long", [NASTY, NASTY + "y" * 10_000], ids=["short", "long"])
def test_no_command_shows_what_commands_a_terminal(tmp_path: Path, long: str) -> None:
    """Each command's output for a run with controls, line ends and marks in each field is plain, and of bounded width."""
    records = nasty_records(long)
    database(tmp_path / "a.db", records)
    jsonl(tmp_path / "a.jsonl", records)
    (tmp_path / "b.jsonl").write_bytes((tmp_path / "a.jsonl").read_bytes() + f"{NASTY}\n".encode(errors="ignore"))
    readings = ("summary", "timeline", "goodput", "slow")
    lines: list[tuple[str, ...]] = [(name, file) for name in readings for file in ("a.db", "b.jsonl")]
    lines += [("diff", "a.db", "a.jsonl"), ("summary", "a.db", "--run", NASTY.replace("\0", "").replace("\ud800", ""))]
    lines += [("export", "a.db", "--perfetto", "t.json", "--csv", "t"), ("timeline", "a.db", "--html", "t.html")]
    lines += [("summary", f"missing{NASTY[:8]}"), ("replay", "a.db", "--to", f"x{NASTY[:8]}://y"), (NASTY[:8],)]
    out, err = commands(lines, tmp_path, FORCE_COLOR="1")
    assert_plain(out, longest=20_000)
    assert_plain(err, longest=4_000)
    whole = [("tail", "a.db"), ("tail", "b.jsonl"), ("tail", "a.db", "--color")]
    whole += [(name, "a.db", "--json") for name in readings]
    out, err = commands(whole, tmp_path)
    assert_plain(out)
    assert_plain(err)


#: A worker that is killed and leaves its flight recorder.
RECORDER = """
import os
import sys
from pathlib import Path
from elastic_events import Event, EventSource
from elastic_events.bus.context import Context
from elastic_events.bus.emit import Emitter
from elastic_events.bus.redact import Redactor
from elastic_events.recorder.writer import open_rings
long = eval(sys.stdin.read())
context = Context("run" + long, "p-1-x" + long, "host" + long, os.getpid(), rank=0, role=long)
events, metrics = open_rings(Path("rings"), context, 64)
emitter = Emitter(events.pipe, metrics.pipe, Redactor())
emitter.record(Event("e" + long, EventSource.WORKER, metadata={long: long}))
emitter.put_metric("m" + long, 1.0)
os._exit(1)
"""


def test_nothing_of_a_flight_recorder_commands_a_terminal(tmp_path: Path) -> None:
    """What recovers, follows and collects the records of a killed process shows them plain, and so does who reads on."""
    long = NASTY.replace("\ud800", "")
    subprocess.run([sys.executable, "-c", RECORDER], input=repr(long), text=True, cwd=tmp_path, timeout=60, check=False)
    lines: list[tuple[str, ...]] = [("recover", "rings", "--last", "9"), ("tail", "rings"), ("summary", "rings")]
    lines += [("collect", "rings", f"x{NASTY[:8]}://y"), ("collect", f"rings/{NASTY[:8]}/x", "sqlite:///c.db")]
    lines += [("recover", "rings", "--to", "sqlite:///b.db"), ("collect", "--once", "rings", "sqlite:///c.db")]
    lines += [("tail", "b.db"), ("tail", "c.db"), ("summary", "c.db", "--json"), ("recover", f"r{NASTY[:8]}")]
    out, err = commands(lines, tmp_path)
    assert_plain(out)
    assert_plain(err)
    assert out.count("owned") > 20


def test_the_console_sink_shows_nothing_raw(tmp_path: Path) -> None:
    """A console that prints records as they come prints one plain line for each, whatever its fields hold."""
    records = nasty_records(NASTY)
    with (tmp_path / "out").open("wb") as file:
        sink = ConsoleSink(file.fileno(), color=True)
        sink.open_now()
        sink.write_now(records)
        sink.close_now()
    text = (tmp_path / "out").read_text("utf-8")
    assert_plain(text)
    assert text.count("\n") == len(records)


def test_json_says_the_same_and_shows_nothing_raw() -> None:
    """A JSON document for a terminal is the same document: what is not printable is written as JSON escapes it."""
    value = {"a\u202e\x9b": ["\U000e0001 é", "\x7f"]}
    text = json_shown(json.dumps(value, ensure_ascii=False))
    assert text.isprintable()
    assert json.loads(text) == value


def test_what_is_plain_is_shown_as_it_is() -> None:
    """Ordinary answers pass through unchanged, letters of any script included; sentences stay one line."""
    run = Run("Größe 北京")
    assert shown(run.agent()) is not None
    value = ("Größe", [1, None, {"北京": 1.5}])
    assert shown(value) is value
    assert sentence("no file 'ä'\nhere") == "no file 'ä'\\nhere"
