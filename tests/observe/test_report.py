"""What a rank that crashed has left beside torch's error file."""

import json
import os
import subprocess
import sys
from pathlib import Path

from elastic_events.observe.report import left_behind
from tests.torchrun.jobs import needs_torch

SCRIPT = """
import os, signal
from elastic_events.observe import last_words

def child():
    os.abort()

last_words.begin()
if not os.fork():
    child()
os.wait()
{end}
"""


def left(tmp_path: Path, end: str) -> dict[str, object]:
    """What a rank leaves that had a child which crashed, and then comes to this end."""
    script = tmp_path / "rank.py"
    script.write_text(SCRIPT.format(end=end), "utf-8")
    error_file = str(tmp_path / "error.json")
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "TORCHELASTIC_ERROR_FILE": error_file},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode < 0, done.stderr
    return left_behind(error_file, None)


def test_a_child_that_crashed_is_not_the_rank(tmp_path: Path) -> None:
    """A rank that outlives the crash of a child that it forked is not said to have died there: it was killed, nothing more."""
    assert left(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)") == {}


def test_a_rank_that_crashes_behind_its_child(tmp_path: Path) -> None:
    """Its own crash is told, with its own place."""
    found = left(tmp_path, "os.abort()")
    lines = (tmp_path / "rank.py").read_text("utf-8").splitlines()
    assert (found["file"], found["line"]) == (str(tmp_path / "rank.py"), len(lines))


@needs_torch
def test_an_agent_never_finds_half_an_error_file(tmp_path: Path) -> None:
    """One that ends a rank while this writes it, since another died, would fail itself instead of beginning anew."""
    script = tmp_path / "rank.py"
    script.write_text(
        """
import json, os
from elastic_events.observe import last_words

last_words.begin()
dump, path = json.dump, os.environ["TORCHELASTIC_ERROR_FILE"]

def slow(*args, **options):
    print(os.path.exists(path), flush=True)
    dump(*args, **options)

json.dump = slow
raise ConnectionError("peer is gone")
""",
        "utf-8",
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "TORCHELASTIC_ERROR_FILE": str(tmp_path / "error.json")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "False\n"
    assert "peer is gone" in json.loads((tmp_path / "error.json").read_text("utf-8"))["message"]["message"]
    assert sorted(path.name for path in tmp_path.glob("error.json*") if path.suffix != ".crash") == ["error.json"]
