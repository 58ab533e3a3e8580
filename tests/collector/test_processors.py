"""Which processors a collector leaves to its writers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.collector.programs import until

SPIN = "import os, sys; os.sched_setaffinity(0, [int(sys.argv[1])])\nwhile True: pass"

ASIDE = """
import json, os, sys, threading
from elastic_events.recorder.processors import Aside
held = threading.Event()
threading.Thread(target=held.wait, daemon=True).start()
where = lambda: [sorted(os.sched_getaffinity(int(task))) for task in os.listdir("/proc/self/task")]
aside = Aside()
for pids in ([], [int(sys.argv[1])], [int(sys.argv[1]), -1], [], [int(word) for word in sys.argv[1:]]):
    aside.step(pids)
    print(json.dumps(where()))
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or (os.cpu_count() or 1) < 2, reason="one processor")
def test_a_collector_runs_beside_its_writers() -> None:
    """All its threads keep off the processors of its writers, and share them where all processors are taken."""
    processors = sorted(os.sched_getaffinity(0))
    writers = [subprocess.Popen([sys.executable, "-c", SPIN, str(one)]) for one in processors]
    try:
        for one, writer in zip(processors, writers, strict=True):
            until(lambda one=one, writer=writer: _processor(writer.pid) == one)  # type: ignore[misc]
        call = [sys.executable, "-c", ASIDE, *(str(writer.pid) for writer in writers)]
        said = subprocess.run(call, capture_output=True, text=True, check=True, timeout=60).stdout
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    all_of_them, *steps = map(json.loads, said.splitlines())
    beside = [[one for one in thread if one != processors[0]] for thread in all_of_them]
    assert len(beside) == 2
    assert steps == [beside, beside, all_of_them, all_of_them]


def _processor(pid: int) -> int:
    """Where a process runs that has begun to spin: it may run on one processor only."""
    allowed = os.sched_getaffinity(pid)
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[36]) if len(allowed) == 1 else -1
