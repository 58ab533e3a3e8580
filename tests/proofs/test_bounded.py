"""Memory stays flat while every sink is stuck. ELASTIC_PROOF_EMITS=50000000 runs the long form."""

import os
import subprocess
import sys

import pytest

EMITS = int(os.environ.get("ELASTIC_PROOF_EMITS", "5000000"))

SCRIPT = """
import sys
import anyio
from elastic_events import Event, EventBus, EventSource

async def hang(records):
    await anyio.sleep_forever()

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

def event(number):
    return Event("e", EventSource.WORKER, 0, {"rank": 3, "step": number, "text": "x" * 100})

def emit(count):
    for number in range(count // 10):
        for _ in range(9):
            put("loss", number)
        record(event(number))

bus = EventBus(timeout=0.1)
for number in range(4):
    bus.subscribe(hang, name=f"hung{number}", timeout=None, backlog=4096)
bus.open()
put, record = bus.put_metric, bus.record
if sys.argv[2] == "unbounded":
    kept = []
    put = lambda name, value: kept.append((name, value))

def fell():
    return sum(lane.dropped.get("backlog", 0) for lane in bus.stats().lanes.values())

# Flat out, the ring overwrites metrics before the drain sees them: fill the backlog of each kind in small portions.
for one in (lambda: bus.put_metric("loss", 0.5), lambda: bus.record(event(1))):
    for _ in range(1000):
        before = fell()
        for _ in range(500):
            one()
        bus.flush_sync(0.1)
        if fell() - before > 1000:
            break
    else:
        raise SystemExit("the backlogs do not fill")
emit(300_000)
full = resident()
emit(int(sys.argv[1]))
grown = resident() - full
stats = bus.stats()
bus.close()
print(grown, stats.accepted)
"""


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads resident memory from /proc")


def growth(emits: int, queue: str) -> tuple[int, int]:
    """Return by how many bytes `emits` grew resident memory, and how many records the bus accepted."""
    command = [sys.executable, "-c", SCRIPT, str(emits), queue]
    grown, accepted = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(grown), int(accepted)


@pytest.mark.timeout(EMITS // 10_000 + 60)
def test_resident_memory_is_flat_with_every_sink_stuck() -> None:
    """Five million emits with four sinks that never return grow resident memory by less than 2 MiB."""
    grown, accepted = growth(EMITS, "bus")
    assert accepted >= EMITS
    assert grown < 2 << 20


def test_an_unbounded_list_shows_as_growth() -> None:
    """The control: half a million points kept in a list grow it by more."""
    grown, _ = growth(500_000, "unbounded")
    assert grown > 16 << 20
