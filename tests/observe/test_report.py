"""What a rank that crashed has left beside torch's error file."""

import os
import subprocess
import sys
from pathlib import Path

from elastic_events.observe.report import left_behind

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
