"""How a process ends × where × who drains it: what must arrive is a table.

Some of the cases run always, all of them with `ELASTIC_EXIT_MATRIX=1 pytest tests/reliability/test_exit_matrix.py`.
"""

import itertools
import json
import os
import time
from pathlib import Path

import pytest

from tests.reliability.scripts import run

#: How it ends -> the code, and what must arrive of a drain in this process: "all", or "some" where no hook of ours is run, or
#: where somebody would not wait. Of a collector process, all must arrive however it ends.
WAYS = {
    "return": ("", "all"),
    "sys.exit": ("sys.exit(3)", "all"),
    "exception": ("raise RuntimeError('training died')", "all"),
    "SIGINT": ("os.kill(os.getpid(), signal.SIGINT); time.sleep(0.2)", "all"),
    "two SIGINTs": ("threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start(); sys.exit(3)", "some"),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.2)", "some"),
    "SIGTERM, handled": ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.2)", "all"),
    "os._exit": ("os._exit(4)", "some"),
    "SIGKILL": ("os.kill(os.getpid(), signal.SIGKILL)", "some"),
    "abort": ("os.abort()", "some"),
}
PLACES = ("main", "thread", "task", "callback", "fork", "spawn", "forkserver")
DRAINS = ("thread", "process", "embedded")

BODY = """
import asyncio, multiprocessing
way, place, drain = {case!r}

def leave():
    {code}

def open_bus():
    handled = way == "SIGTERM, handled"
    if handled: signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if drain == "process":
        elastic_events.start("jsonl:///" + OUT + ".jsonl", timeout=20, handle_sigterm=handled)
    else:
        elastic_events.start(File(), interval=60, timeout=20, handle_sigterm=handled)

def work(here=place):
    if drain == "embedded": return asyncio.run(embedded(here))
    open_bus()
    emit(100)
    if here == "thread":
        thread = threading.Thread(target=leave)
        thread.start()
        thread.join()
    elif here in ("task", "callback"):
        asyncio.run(in_loop(here))
    else:
        leave()

async def in_loop(here):
    if here == "task": await asyncio.create_task(leave_in_task())
    asyncio.get_running_loop().call_soon(leave)
    await asyncio.sleep(0.3)

async def leave_in_task():
    leave()

async def embedded(here):
    if way == "SIGTERM, handled": signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    async with EventBus(File(), interval=60, timeout=20):
        emit(100)
        if here == "thread": await asyncio.to_thread(leave)
        elif here in ("task", "callback"): await in_loop(here)
        else: leave()

if __name__ == "__main__":
    if place in ("fork", "spawn", "forkserver"):
        child = multiprocessing.get_context(place).Process(target=work, args=("main",))
        child.start()
        child.join()
    else:
        work()
"""

ALL = list(itertools.product(WAYS, PLACES, DRAINS))
ALWAYS = [
    *((way, "main", drain) for way in ("SIGTERM, handled", "two SIGINTs") for drain in DRAINS),
    *((way, "main", "process") for way in ("SIGTERM", "os._exit", "SIGKILL", "abort")),
    *(("sys.exit", place, "embedded") for place in ("thread", "callback", "fork", "forkserver")),
    *(("exception", place, "thread") for place in ("task", "spawn")),
    *(("SIGINT", place, "process") for place in ("thread", "fork")),
]


def arrived(out: Path, drain: str, wanted: int) -> list[int]:
    """Return the values that arrived; a collector process may still be at it."""
    if drain != "process":
        return (
            [json.loads(line)[2] for line in out.read_text().splitlines() if '"metric"' in line] if out.exists() else []
        )
    path, end = out.with_suffix(".jsonl"), time.monotonic() + 40
    while True:
        lines = path.read_text().splitlines() if path.exists() else []
        values = [row["value"] for row in map(json.loads, lines) if row.get("kind") == "metric"]
        if len(values) >= wanted or time.monotonic() > end:
            return values
        time.sleep(0.05)


@pytest.mark.parametrize("case", ALL if os.environ.get("ELASTIC_EXIT_MATRIX") else ALWAYS, ids=" / ".join)
def test_what_must_arrive_arrives(case: tuple[str, str, str], tmp_path: Path) -> None:
    """However and wherever a process ends, what the table promises is delivered, in order, within the deadline."""
    way, _place, drain = case
    code, promise = WAYS[way]
    wanted = "all" if drain == "process" else promise
    folder = tmp_path / "rings"
    folder.mkdir(0o700)
    began = time.monotonic()
    body = BODY.format(case=case, code=code or "pass")
    run(body, tmp_path, timeout=100, ELASTIC_EVENTS_DIR=str(folder) if drain == "process" else "")
    assert time.monotonic() - began < 60
    values = arrived(tmp_path / "out", drain, 100 if wanted == "all" else 0)
    assert values == list(range(100 if wanted == "all" else len(values)))
