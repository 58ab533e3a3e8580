"""The commands as a user gives them: several inputs, the choice of a run, JSON, exit codes, and every wrong input."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from elastic_events.bus.context import Context
from elastic_events.bus.record import Record
from elastic_events.reading.buckets import Goodput
from elastic_events.reading.compare import Diff
from elastic_events.reading.overview import Summary
from elastic_events.reading.rows import Timeline
from elastic_events.reading.said import FACTS, SPANS
from elastic_events.reading.stragglers import Slow
from tests.programs import environment
from tests.reading.runs import Run, two_attempts
from tests.reading.test_source import database, jsonl
from tests.records import changed
from tests.test_cli import command

READINGS = ("summary", "timeline", "goodput", "slow")


def failed(run_id: str = "bad") -> Run:
    """A run that failed."""
    run = Run(run_id)
    agent = run.agent()
    run.tell(100, agent, "job.started")
    run.start(101, agent, 0, range(1))
    run.failed(105, agent, 0, 0, exit_code=3)
    run.tell(105, agent, "attempt.ended", attempt=0, outcome="failed")
    run.tell(106, agent, "job.failed", reason="workers failed")
    return run


@pytest.mark.parametrize("name", READINGS)
def test_json_is_one_document_and_check_tells_failure(tmp_path: Path, name: str) -> None:
    """Each command prints one JSON document of its run; with --check it exits 0, 1 when the job failed, 3 when unknown."""
    good, bad = database(tmp_path / "good.db", two_attempts().records), database(tmp_path / "bad.db", failed().records)
    done = command(name, str(good), "--json", "--check", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run_id"] == "run"
    done = command(name, str(bad), "--check", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert command(name, str(bad), cwd=tmp_path).returncode == 0
    cut = database(tmp_path / "cut.db", two_attempts().records[:-1])
    assert command(name, str(cut), "--check", cwd=tmp_path).returncode == 3


@pytest.mark.parametrize("name", READINGS)
def test_the_choice_of_a_run(tmp_path: Path, name: str) -> None:
    """Of several runs the last is read, and the others are named; --run chooses; one that is not there is refused."""
    database(tmp_path / "both.db", [*two_attempts().records, *failed().records])
    done = command(name, "both.db", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["run_id"] == "bad"
    assert "2 runs here: showing the last, bad; --run chooses among run" in done.stderr
    assert json.loads(command(name, "both.db", "--json", "--run", "run", cwd=tmp_path).stdout)["run_id"] == "run"
    done = command(name, "both.db", "--run", "none", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no run 'none' here; there are run, bad" in done.stderr


def test_runs_that_have_no_id(tmp_path: Path) -> None:
    """Where no run has an id, --run could not choose: it is said what would."""
    run = Run("none")
    for begin, process in ((0, "64-1-x"), (100, "65-2-x")):
        run.steps(Context("none", process, "a", int(process[:2], 16)), range(5), begin, 1)
    database(tmp_path / "both.db", run.records)
    done = command("summary", "both.db", cwd=tmp_path)
    assert "2 runs here: showing the last, none; give each an ELASTIC_EVENTS_RUN_ID to choose by" in done.stderr


@pytest.mark.parametrize("name", READINGS)
def test_wrong_inputs(tmp_path: Path, name: str) -> None:
    """A file that is missing, empty, foreign or damaged gets a sentence that names it, exit code 2, and no traceback.

    The commands read by one way: each is given half of them.
    """
    (tmp_path / "empty.db").write_text("")
    (tmp_path / "foreign.txt").write_text("hello\n" * 10)
    (tmp_path / "binary.bin").write_bytes(bytes(range(256)) * 100)
    whole = database(tmp_path / "run.db", two_attempts().records).read_bytes()
    (tmp_path / "damaged.db").write_bytes(whole[:3000])
    every = ("missing.db", "empty.db", "foreign.txt", "binary.bin", "damaged.db", "nats://127.0.0.1:1/none")
    for wrong in every[READINGS.index(name) % 2 :: 2]:
        done = command(name, wrong, cwd=tmp_path)
        assert done.returncode == 2, (wrong, done.stdout)
        assert done.stderr.count("\n") <= 2, done.stderr
        assert wrong.partition("/none")[0].removeprefix("nats://") in done.stderr
        assert "Traceback" not in done.stderr


def test_a_cut_file_is_read_to_its_cut(tmp_path: Path) -> None:
    """What a cut or damaged file still holds is shown, and what was passed over is told on stderr."""
    whole = jsonl(tmp_path / "run.jsonl", two_attempts().records).read_bytes()
    (tmp_path / "run.jsonl").write_bytes(whole[:-3000] + b"\n{broken\n")
    done = command("summary", "run.jsonl", cwd=tmp_path)
    assert done.returncode == 0
    assert "SIGKILL" in done.stdout
    assert "skipped run.jsonl:" in done.stderr


def test_pictures_and_pages_are_files(tmp_path: Path) -> None:
    """--svg and --html write private files, say so, and refuse a directory that is not there."""
    database(tmp_path / "run.db", two_attempts().records)
    done = command("timeline", "run.db", "--svg", "t.svg", "--html", "t.html", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "wrote t.svg" in done.stderr
    assert (tmp_path / "t.svg").read_text().startswith("<svg")
    assert (tmp_path / "t.html").stat().st_mode & 0o777 == 0o600
    done = command("timeline", "run.db", "--svg", "no/such/t.svg", cwd=tmp_path)
    assert done.returncode == 2
    assert "no/such does not exist" in done.stderr


def test_diff(tmp_path: Path) -> None:
    """Two files, or the files of two nodes joined by a comma, are compared."""
    database(tmp_path / "a.db", failed().records)
    database(tmp_path / "b.db", two_attempts().records)
    document = json.loads(command("diff", "a.db", "b.db", "--json", cwd=tmp_path).stdout)
    assert (document["a"], document["b"], document["grew_most"]) == ("bad", "run", "rendezvous")
    assert command("diff", "a.db,missing.db", "b.db", cwd=tmp_path).returncode == 2


def test_explain(tmp_path: Path) -> None:
    """`goodput --explain` needs no input."""
    done = command("goodput", "--explain", cwd=tmp_path)
    assert done.returncode == 0
    assert "ETTR = productive / wall time" in done.stdout


def closed(run: Run) -> list[Record]:
    """The records of a run, and the ledger behind them."""
    facts = {"lane": "jsonl", "accepted": len(run.records), "delivered": len(run.records)}
    return [*run.records, changed(run.records[-1], kind="ledger", name="bus.ledger", fields=(facts,))]


def test_watch_ends_with_the_job(tmp_path: Path) -> None:
    """`summary --watch` shows a job that runs, and ends by itself once the job has; Ctrl-C ends it before, quietly."""
    path = jsonl(tmp_path / "run.jsonl", closed(two_attempts()))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]))
    call = [sys.executable, "-c", "from elastic_events.cli import main; main()", "summary", "--watch", "run.jsonl"]

    def watch() -> tuple["subprocess.Popen[bytes]", int]:
        terminal, end = os.openpty()
        env = environment(COLUMNS="100")
        process = subprocess.Popen(call, cwd=tmp_path, env=env, stdin=end, stdout=end, stderr=subprocess.PIPE)
        os.close(end)
        assert b"no end recorded" in until(terminal, b"Ranks 0-1")
        return process, terminal

    def until(terminal: int, word: bytes) -> bytes:
        seen = b""
        with contextlib.suppress(OSError):  # what Linux says when the other end is closed
            while word not in seen:
                seen += os.read(terminal, 65536)
        assert word in seen
        return seen

    process, terminal = watch()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert b"Traceback" not in errors
    os.close(terminal)
    process, terminal = watch()
    path.write_bytes(b"".join(lines))
    until(terminal, b"after 20.0 s")
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, b"")
    os.close(terminal)


def watched(tmp_path: Path, *arguments: str) -> "subprocess.Popen[str]":
    """A `summary --watch` of run.jsonl whose output is no terminal."""
    script = "from elastic_events.cli import main; main()"
    call = [sys.executable, "-W", "error", "-c", script, "summary", "--watch", "run.jsonl", *arguments]
    return subprocess.Popen(
        call, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(("run", "code"), [(failed, 1), (two_attempts, 0)])
def test_check_judges_what_was_seen_last(tmp_path: Path, run: Callable[[], Run], code: int) -> None:
    """`summary --watch --check --json` waits for its file, prints a line an answer, and judges the end, not the begin."""
    lines = jsonl(tmp_path / "whole.jsonl", closed(run())).read_bytes().splitlines(keepends=True)
    process = watched(tmp_path, "--check", "--json")
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline().startswith("waiting: run.jsonl: no such file")
        (tmp_path / "run.jsonl").write_bytes(b"".join(lines[:-2]))
        assert json.loads(process.stdout.readline())["outcome"] == "unknown"
        (tmp_path / "run.jsonl").write_bytes(b"".join(lines))
        rest, errors = process.communicate(timeout=30)
        assert json.loads(rest.splitlines()[-1])["outcome"] == ("succeeded" if code == 0 else "failed")
        assert (process.returncode, errors) == (code, "")
    finally:
        process.kill()
        process.communicate()


def test_every_field_of_the_json_is_documented() -> None:
    """docs/reading.md has each field of each answer, with its type and a few words."""
    document = (Path(__file__).parents[2] / "docs/reading.md").read_text("utf-8")
    rows = set(re.findall(r"^\| `(\w+)` \| `[^`]+` \| \S.* \|$", document, re.MULTILINE))
    for answer in (Summary, Timeline, Goodput, Slow, Diff):
        seen = [answer]
        while seen:
            struct = seen.pop()
            assert {field.name for field in msgspec.structs.fields(struct)} <= rows, struct
            for field in msgspec.structs.fields(struct):
                seen += (t for t in get_args(field.type) if isinstance(t, type) and issubclass(t, msgspec.Struct))


def test_every_event_that_is_read_is_documented() -> None:
    """docs/reading.md names each event that makes a story."""
    document = (Path(__file__).parents[2] / "docs/reading.md").read_text("utf-8")
    for name in (
        FACTS - {"agent.left", "rendezvous.unparsed"} | set(SPANS) | {"step.started", "step.ended", "step.observed"}
    ):
        assert f"`{name}`" in document
