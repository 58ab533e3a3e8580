"""The command line as a user meets it: what works, and the sentence when it does not."""

import re
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner

from elastic_events import Event, EventSource
from elastic_events.bus.context import Context
from elastic_events.bus.emit import Emitter
from elastic_events.bus.redact import Redactor
from elastic_events.cli import collect
from elastic_events.cli.group import COMMANDS, elastic_events
from elastic_events.cli.recover import send
from elastic_events.recorder.directory import let_go
from elastic_events.recorder.reader import RecorderReader
from elastic_events.recorder.request import Request, submit
from elastic_events.recorder.writer import open_rings
from elastic_events.sinks.jsonl import read_jsonl
from elastic_events.sinks.sqlite import read_sqlite
from elastic_events.sinks.urls import SCHEMES
from elastic_events.testing import GatedSink
from tests.programs import environment, python
from tests.reading.runs import two_attempts
from tests.reading.test_source import database, jsonl
from tests.recorder.test_recorder import record_some
from tests.sinks.factory import metrics


def command(*arguments: str, cwd: Path, timeout: float = 60, before: str = "") -> "subprocess.CompletedProcess[str]":
    """Run elastic-events; `before` is Python that runs first."""
    script = f"{before}\nfrom elastic_events.cli import main; main()"
    return python("-W", "error", "-c", script, *arguments, cwd=cwd, timeout=timeout, COLUMNS="100")


def test_demo(tmp_path: Path) -> None:
    """The demo trains, loses a worker to SIGKILL, restarts, ends well, and tells so from the database."""
    done = command("demo", "run.db", "--steps", "120", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rank 2 died of SIGKILL; the group restarts" in done.stdout
    assert re.search(
        r"0 +4 +\+[\d.]+ ms .* 0 to (?:69|70|71) +failed +rank 2 on \S+: SIGKILL, 3\s+victims", done.stdout
    ), done.stdout
    assert re.search(r"1 +4 +\+[\d.]+ m?s .* 60 to 119 +succeeded", done.stdout), done.stdout
    assert re.search(r"(\d+) accepted, \1 delivered, none lost", done.stdout)
    records = list(read_sqlite(tmp_path / "run.db"))
    (died,) = [r for r in records if r.name == "worker.failed" and r.event.metadata["first"]]
    last = [r for r in records if r.context.pid == died.event.metadata["pid"] and r.name != "worker.died"]
    assert last[-1].event.name in ("step.started", "step.ended")
    assert last[-1].event.metadata["step"] in (69, 70, 71)
    victims = [r for r in records if r.name == "worker.failed" and r.event.metadata["victim"]]
    assert len(victims) == 3
    assert [r.name for r in records if r.name.startswith("job.")] == ["job.started", "job.succeeded"]
    losses = [r.fields[0] for r in records if r.name == "loss"]
    assert losses[-1] < losses[0] / 3
    again = command("summary", "run.db", cwd=tmp_path)
    assert "Last words of rank 2" in again.stdout
    assert command("demo", "run.db", cwd=tmp_path).returncode == 2


def test_recover_and_replay(tmp_path: Path) -> None:
    """What a dead process left is printed, delivered, and delivered again without a duplicate."""
    record_some(tmp_path / "rings", 3)
    done = command("recover", "rings", "--last", "2", "--to", "sqlite:///out.db", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "6 records" in done.stdout
    assert "6 of 6 records delivered" in done.stdout
    assert done.stdout.count("\n  ") == 2
    command("recover", "rings", "--to", "sqlite:///out.db", cwd=tmp_path)
    command("replay", "rings", "--to", "sqlite:///out.db", cwd=tmp_path)
    assert len([r for r in read_sqlite(tmp_path / "out.db") if r.kind != "ledger"]) == 6


def test_one_is_one(tmp_path: Path) -> None:
    """Of one record no sentence speaks in the plural."""
    (tmp_path / "rings").mkdir(mode=0o700)
    events, metrics = open_rings(tmp_path / "rings", Context("run", "1-0-0", "host", 1), 64)
    Emitter(events.pipe, metrics.pipe, Redactor()).record(Event("one", EventSource.WORKER))
    done = command("recover", "rings", "--to", "jsonl:///out.jsonl", cwd=tmp_path)
    assert ", 1 record, last record " in done.stdout
    assert "1 of 1 record delivered" in done.stdout
    assert "1 of 1 record delivered" in command("replay", "rings", "--to", "sqlite:///out.db", cwd=tmp_path).stdout
    done = command("export", "out.jsonl", "--csv", "out", cwd=tmp_path)
    assert done.stderr == "wrote 1 event, 1 ledger to out\n"


@pytest.mark.parametrize("scheme", ["jsonl", "sqlite"])
def test_a_sink_that_only_the_user_can_mend_is_not_tried_again(scheme: str, tmp_path: Path) -> None:
    """Of a place that cannot even be looked at, one sentence says so, at once, and that it is tried again is no word of it."""
    record_some(tmp_path / "rings", 1)
    url = f"{scheme}:///{'long' * 100}/run.db"
    done = command("replay", "rings", "--timeout", "10", "--to", url, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"elastic-events: cannot write to \S+: File name too long\n", done.stderr), done.stderr


def test_recover_of_nothing(tmp_path: Path) -> None:
    """A directory in which nothing was left is said to be so, and is no failure."""
    done = command("recover", ".", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ". holds no flight recorder: nothing was left\n")


def test_recover_last_is_by_time(tmp_path: Path) -> None:
    """The last records of a process are those with the last times, over events and metrics together."""
    context = Context("run", "1-0-0", "host", 1)
    events, metrics = open_rings(tmp_path / "rings", context, 16384)
    emitter = Emitter(events.pipe, metrics.pipe, Redactor())
    for number in range(100):
        emitter.record(Event(f"early{number}", EventSource.WORKER))
    for number in range(9000):
        emitter.put_metric("loss", number)
    for number in range(6):
        emitter.record(Event(f"late{number}", EventSource.WORKER))
    lines = command("recover", "rings", "--last", "8", cwd=tmp_path).stdout.splitlines()[1:]
    assert [re.search(r"loss|late\d", line)[0] for line in lines] == [  # type: ignore[index]
        *("loss", "loss"),
        *(f"late{number}" for number in range(6)),
    ]


def test_replay_sends_what_stands_twice_once(tmp_path: Path) -> None:
    """A record that the dead letters hold twice, since two lanes refused it say, is sent once to a sink that knows no ids."""
    records = two_attempts().records
    jsonl(tmp_path / "dead.jsonl", [*records, *records])
    done = command("replay", "dead.jsonl", "--to", "jsonl:///out.jsonl", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (
        0,
        f"{len(records)} of {len(records)} records delivered to jsonl:///out.jsonl\n",
    )
    assert len([r for r in read_jsonl(tmp_path / "out.jsonl") if r.kind != "ledger"]) == len(records)


def test_replay_waits_once_for_a_sink_that_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--timeout` is how long a sink may take none, not how long for each part of what is sent: 100,000 records took hours."""
    monkeypatch.setitem(SCHEMES, "stuck", lambda _url: GatedSink())
    stats = anyio.run(send, metrics(2000), "stuck:", 0.05)
    assert (stats.delivered, stats.accepted) == (0, 512)


def test_replay_tells_what_it_cannot_read(tmp_path: Path) -> None:
    """Damaged lines are named, counted among what was to be delivered, and no success; nor is garbage alone."""
    path = jsonl(tmp_path / "dead.jsonl", two_attempts().records)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = lines[9] = b"{broken\n"
    path.write_bytes(b"".join(lines))
    done = command("replay", "dead.jsonl", "--to", "sqlite:///out.db", cwd=tmp_path)
    assert done.returncode == 2
    assert f"{len(lines) - 2} of {len(lines)} records delivered" in done.stdout
    assert "skipped dead.jsonl:4: " in done.stderr
    assert "not all could be read: 2 records of dead.jsonl damaged" in done.stderr
    assert len([r for r in read_sqlite(tmp_path / "out.db") if r.kind != "ledger"]) == len(lines) - 2
    path.write_bytes(b"garbage\n" * 3)
    done = command("replay", "dead.jsonl", "--to", "sqlite:///out.db", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no record can be read from dead.jsonl" in done.stderr
    path.write_bytes(b"")
    done = command("replay", "dead.jsonl", "--to", "sqlite:///out.db", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "0 of 0 records delivered to sqlite:///out.db\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("tail", "missing.db"), "does not exist"),
        (("summary", "missing.db"), "no such file or directory"),
        (("summary", "sqlite:///run.db"), "by its path alone"),
        (("summary", "foreign.db"), "foreign.db"),
        (("recover", "missing"), "no such directory"),
        (("collect", "--once", "missing"), "no such directory"),
        (("replay", "rings", "--to", "nowhere://x"), "no sink is called 'nowhere'"),
        (("replay", "rings", "--to", "sqlite:///no/such/dir/x.db"), "mkdir"),
        (("demo", "no/such/dir/x.db"), "mkdir"),
        (("nonsense",), "there is no command"),
    ],
)
def test_mistakes_get_a_sentence(arguments: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    """A user's mistake is one sentence on stderr and exit code 2, never a traceback."""
    record_some(tmp_path / "rings", 1)
    (tmp_path / "foreign.db").write_bytes(b"SQLite format 3\0" + bytes(5000))
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("summary", "locked"),
        ("tail", "locked"),
        ("summary", "locked/run.db"),
        ("tail", "-f", "locked/run.db"),
        ("slow", "n" * 300),
        ("timeline", "run.db", "--html", "locked/more/x.html"),
        ("export", "run.db", "--perfetto", "locked/trace.json"),
        ("export", "run.db", "--csv", "locked/tables"),
    ],
)
def test_a_place_that_cannot_be_looked_at(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """A directory without rights, or a name too long, is said so in one line: no traceback, and not that nothing is there."""
    database(tmp_path / "run.db", two_attempts().records)
    (tmp_path / "locked").mkdir(mode=0)
    # Without capabilities (capset(2)), root has the rights that the mode gives, too.
    before = "import ctypes\nctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522), (ctypes.c_uint32 * 6)())"
    done = command(*arguments, cwd=tmp_path, before=before)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert re.match(r"elastic-events: .*(Permission denied|File name too long)$", done.stderr), done.stderr


def test_collect_once_without_a_sink(tmp_path: Path) -> None:
    """`collect --once` of recorders for which nobody asked for a sink says so, and leaves them; an empty directory is done."""
    work = "from elastic_metrics import put_metric\nput_metric('loss', 1)\nimport os\nos._exit(0)"
    python("-c", work, cwd=tmp_path, ELASTIC_EVENTS_DIR=str(tmp_path / "rings"))
    done = command("collect", "--once", "rings", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no sink was asked for in rings" in done.stderr
    assert list((tmp_path / "rings").glob("*.ring"))
    (tmp_path / "empty").mkdir()
    assert command("collect", "--once", "empty", cwd=tmp_path).returncode == 0
    done = command("collect", "--once", "rings", "sqlite:///run.db", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert not list((tmp_path / "rings").glob("*.ring"))


def test_collect_into_another_sink_than_the_one_that_was_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What went to the spool of one sink another does not get: that is said, and how it gets it; to the one it is not."""

    async def at_once(_directory: Path, lock: int, _once: bool) -> int:
        let_go(lock)
        return 0

    monkeypatch.setattr(collect, "_collect", at_once)
    rings = tmp_path / "rings"
    made = open_rings(rings, Context("r", "p"), 64)
    for ring in made:
        ring.close()
    reader = RecorderReader(next(rings.glob("*.ring")), write=True)
    reader.note("settled", (1, 2))
    reader.note("safe", (3, 5))
    arguments = ["collect", "--once", str(rings), f"sqlite:///{tmp_path}/run.db"]
    assert CliRunner().invoke(elastic_events, [*arguments, "--run", "another"]).output == ""
    said = CliRunner().invoke(elastic_events, arguments).output
    assert "5 records of before wait in the spool for another sink" in said
    assert f"elastic-events recover {rings} --to URL" in said
    spool = rings / ".spool" / f"{Request(arguments[-1], everyone=True).key:016x}"
    spool.mkdir(parents=True)
    assert CliRunner().invoke(elastic_events, arguments).output == ""
    spool.rmdir()
    submit(rings, Request(arguments[-1], "another", everyone=True))
    assert "5 records of before" in CliRunner().invoke(elastic_events, arguments).output
    submit(rings, Request(arguments[-1], "r", everyone=True))  # the program asked for it: it is the one that was away
    assert CliRunner().invoke(elastic_events, arguments).output == ""


def test_collect_to_the_output(tmp_path: Path) -> None:
    """A stream is the command's own, and no file called stdout in the working directory."""
    work = "from elastic_metrics import put_metric\nput_metric('loss', 1)\nimport os\nos._exit(0)"
    python("-c", work, cwd=tmp_path, ELASTIC_EVENTS_DIR=str(tmp_path / "rings"))
    done = command("collect", "--once", "rings", "jsonl:stdout", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert '"name":"loss"' in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["rings"]


def test_tail_of_what_is_no_record(tmp_path: Path) -> None:
    """`tail` of a file of another program ends with 2 and a sentence, as every command does."""
    (tmp_path / "notes.txt").write_text("hello\n" * 3)
    done = command("tail", "notes.txt", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "elastic-events: no record can be read from notes.txt" in done.stderr


@pytest.mark.parametrize(
    ("output", "said"),
    [(">/dev/full", "the output cannot be written: No space left on device\n"), (">&-", ""), ("| true", "")],
)
@pytest.mark.parametrize("name", ["summary", "timeline", "tail"])
def test_an_output_that_takes_nothing(name: str, output: str, said: str, tmp_path: Path) -> None:
    """A full, a closed and a broken stdout end without a traceback; that a file is full is said."""
    jsonl(tmp_path / "run.jsonl", two_attempts().records)
    script = "from elastic_events.cli import main; main()"
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -W error -c "{script}" {name} run.jsonl {output}'],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == (f"elastic-events: {said}" if said else "")


def test_an_ascii_terminal(tmp_path: Path) -> None:
    """What a terminal without Unicode cannot show is escaped, or drawn in ASCII; never a traceback."""
    records = two_attempts().records
    jsonl(tmp_path / "run.jsonl", records)
    before = "import sys; sys.stdout.reconfigure(encoding='ascii', errors='strict')"
    for name in ("summary", "timeline", "goodput", "slow"):
        done = command(name, "run.jsonl", cwd=tmp_path, before=before)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.isascii()
    assert "\\" not in command("timeline", "run.jsonl", cwd=tmp_path, before=before).stdout


@pytest.mark.parametrize(
    "arguments", [("timeline", "--html"), ("timeline", "--svg"), ("goodput", "--html"), ("export", "--perfetto")]
)
def test_a_dash_is_the_standard_output(arguments: tuple[str, str], tmp_path: Path) -> None:
    """A file called `-` is the standard output, which gets what the file would have, and nothing else."""
    jsonl(tmp_path / "run.jsonl", two_attempts().records)
    name, option = arguments
    to_stdout = command(name, "run.jsonl", option, "-", cwd=tmp_path)
    assert to_stdout.returncode == 0, to_stdout.stderr
    assert command(name, "run.jsonl", option, "file", cwd=tmp_path).returncode == 0
    assert to_stdout.stdout == (tmp_path / "file").read_text("utf-8")
    assert not (tmp_path / "-").exists()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int, tmp_path: Path) -> None:
    """At each width of a terminal nothing is cut off: what does not fit goes on in the next line, or is no table."""
    jsonl(tmp_path / "run.jsonl", two_attempts().records)
    for name in ("summary", "timeline", "goodput", "slow"):
        done = command(name, "run.jsonl", cwd=tmp_path, before=f"import os; os.environ['COLUMNS'] = '{width}'")
        assert done.returncode == 0, done.stderr
        assert max(map(len, done.stdout.splitlines())) <= width, name
        assert "\N{HORIZONTAL ELLIPSIS}" not in done.stdout, name


def test_tail_waits_for_what_is_not_there_yet(tmp_path: Path) -> None:
    """`tail -f` of a directory in which nobody has recorded yet says that it waits, and shows what comes."""
    (tmp_path / "rings").mkdir()
    call = [sys.executable, "-u", "-W", "error", "-m", "elastic_events", "tail", "-f", "rings"]
    environ = environment()
    with subprocess.Popen(call, cwd=tmp_path, env=environ, stdout=-1, stderr=-1, text=True) as tail:
        assert tail.stdout is not None
        assert tail.stderr is not None
        try:
            assert tail.stderr.readline().startswith("waiting: ")
            record_some(tmp_path / "rings", 1)
            assert tail.stdout.readline()
        finally:
            tail.kill()


def test_every_command_has_help() -> None:
    """Each command that is listed exists, and says what it is for."""
    listed = CliRunner().invoke(elastic_events, ["--help"]).stdout
    for name in COMMANDS:
        assert name in listed
        assert CliRunner().invoke(elastic_events, [name, "--help"]).exit_code == 0


def test_help_says_each_command_whole(tmp_path: Path) -> None:
    """The list of commands is complete, none of its sentences is cut; `-h` and `python -m elastic_events` show it, too."""
    listed = command("-h", cwd=tmp_path).stdout
    assert all(sentence in listed for sentence in COMMANDS.values())
    assert "..." not in listed.partition("Commands:")[2]
    call = [sys.executable, "-m", "elastic_events", "-h"]
    assert "summary" in subprocess.run(call, capture_output=True, text=True, check=True).stdout
    assert command("slow", "-h", cwd=tmp_path).returncode == 0


def test_version_names_what_runs(tmp_path: Path) -> None:
    """`--version` says what a report of a fault needs: ours, Python's, torch's."""
    said = command("--version", cwd=tmp_path).stdout
    assert re.fullmatch(r"elastic-events \d+\.\d+\.\d+, Python 3\.\d+\.\d+\S*, (no torch|torch \S+)\n", said)


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    """A word that is nearly a command gets that command's name."""
    done = command("sumary", "x.db", cwd=tmp_path)
    assert done.returncode == 2
    assert "there is no command 'sumary'; did you mean summary?" in done.stderr


def test_ctrl_c_is_a_signals_end(tmp_path: Path) -> None:
    """A command that Ctrl-C interrupts ends with 130, as shells know it, and no traceback."""
    before = "import signal\nimport elastic_events.reading.source as s\n"
    before += "def stuck(*args): signal.raise_signal(signal.SIGINT)\ns.read_stories = stuck"
    done = command("summary", "x.db", cwd=tmp_path, before=before)
    assert (done.returncode, done.stderr) == (130, "")
