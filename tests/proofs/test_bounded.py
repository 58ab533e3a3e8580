"""Memory stays flat while every sink is stuck, and while nothing happens. ELASTIC_PROOF_EMITS=50000000 runs the long form."""

import gc
import os
import subprocess
import sys

import anyio
import pytest

from elastic_events import EventBus
from elastic_events.bus.drain import Drain
from elastic_events.testing import ListSink

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


async def test_a_bus_that_looks_in_vain_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of looks that find nothing leave no object behind: a program may live for months."""
    looks, look = 0, Drain._look

    def counted(drain: Drain, *most: int) -> int:
        nonlocal looks
        looks += 1
        return look(drain, *most)

    monkeypatch.setattr(Drain, "_look", counted)

    async def objects_after(more: int) -> int:
        end = looks + more
        while looks < end:
            await anyio.sleep(0.001)
        gc.collect()
        return len(gc.get_objects())

    with anyio.fail_after(60):
        async with EventBus(ListSink(), interval=0.0005):
            before = await objects_after(50)
            assert await objects_after(400) < before + 100
