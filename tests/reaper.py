"""Ends what a run of the tests leaves behind, however that ends: interrupted, terminated or killed.

A process of its own: `python reaper.py PID MARK FOLDER SECONDS` waits until the process PID has ended, gives all that the
tests started, which have MARK in their environment, SECONDS to end by themselves, kills what has not, and unmounts what is
mounted beneath FOLDER. It imports the standard library only.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

__all__ = ("MARK", "watch")

#: The variable by which the processes of a run are known.
MARK = "ELASTIC_TESTS_RUN"

#: Seconds that they have to end: a collector delivers what its writers left.
GRACE = 5.0

#: Seconds between two looks.
PAUSE = 0.25


def watch(folder: Path, pid: int | None = None, grace: float = GRACE) -> None:
    """Start a reaper for process `pid`, this one by default, and mark what is started here from now on."""
    mark = os.environ[MARK] = uuid.uuid4().hex
    # Not a child of ours when it runs: tests wait for any child, and count them. No signal of the terminal reaches it.
    words = [sys.executable, "-I", "-S", __file__, str(pid or os.getpid()), mark, str(folder), str(grace)]
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)


def _is_alive(pid: int, start: str) -> bool:
    return _start(pid) == start != ""


def _start(pid: int) -> str:
    """Return when a process started, in the clock's own words; "" where it has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]


def _marked(mark: str) -> list[int]:
    """Return the processes that have the mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:  # it ended, or is another user's
            continue
    return [pid for pid in found if pid != os.getpid() and _start(pid)]


def _unmount(folder: str) -> None:
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        place = line.split()[1].encode().decode("unicode_escape")
        if place.startswith(folder + "/"):
            subprocess.run(["umount", "-l", place], check=False)


def main(pid: int, mark: str, folder: str, grace: float) -> None:
    """Wait for the end of `pid`, then clean up."""
    start = _start(pid)
    if os.fork():
        os._exit(0)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    while _is_alive(pid, start):
        time.sleep(PAUSE)
    end = time.monotonic() + grace
    while _marked(mark) and time.monotonic() < end:
        time.sleep(PAUSE)
    for left in _marked(mark):
        try:
            os.kill(left, signal.SIGKILL)
        except ProcessLookupError:
            continue
    _unmount(folder)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]))
