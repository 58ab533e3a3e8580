"""The emit path takes no lock: it goes on while another thread holds every lock of the process that can be found.

Held are the import lock, and each lock and re-entrant lock that the garbage collector reaches: those of `logging` and its
handlers, of `threading` (`_active_limbo_lock`), of the event loop, and of the bus. What the collector cannot reach is
excluded: locks inside the interpreter's C code, and the lock a module has only while it is imported.
"""

import signal
import subprocess
import sys

import pytest

SCRIPT = """
import _imp, _thread, gc, logging, os, signal, sys, threading, time
from elastic_events import Event, EventBus, EventSource, record
from elastic_metrics import put_metric

async def nothing(records): pass

bus = EventBus()
bus.subscribe(nothing)
bus.open()
event = Event("e", EventSource.WORKER, 0, {"rank": 3})
record(event); put_metric("loss", 1.0); bus.flush_sync()
held, ready = [], []

def hold():
    kinds = (_thread.LockType, _thread.RLock)
    _imp.acquire_lock()
    for found in gc.get_objects():
        for lock in (found, *gc.get_referents(found)):
            if type(lock) in kinds:
                lock.acquire(False)
                held.append(lock)
    ready.append(True)
    while True:
        time.sleep(60)

signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the kernel's own watchdog: it needs no lock to kill
_thread.start_new_thread(hold, ())
while not ready:
    pass
assert any(lock is threading._active_limbo_lock for lock in held)
assert any(lock is logging._lock for lock in held)
assert any(lock is bus._subscribing for lock in held)
signal.setitimer(signal.ITIMER_REAL, float(sys.argv[2]))
before = [ring.head for ring in bus._rings]
if sys.argv[1] == "emit":
    for number in range(5000):
        put_metric("loss", number)
        record(event)
        record(Event("e", EventSource.WORKER, 0, {"nested": {"set": {1}}, "long": "x" * 100_000}))
else:
    logging.getLogger().addHandler(logging.NullHandler())
after = [ring.head for ring in bus._rings]
os.write(1, repr([new - old for new, old in zip(after, before)]).encode())
os._exit(0)
"""


def run(what: str, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run the script; the kernel kills it when `what` takes longer than `seconds`."""
    command = [sys.executable, "-c", SCRIPT, what, str(seconds)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the watchdog is an interval timer")
def test_emits_while_every_lock_is_held() -> None:
    """Fifteen thousand emits, the long way included, take no lock that another thread holds."""
    done = run("emit", 30)
    assert (done.returncode, done.stdout) == (0, "[10000, 5000]"), done.stderr


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the watchdog is an interval timer")
def test_logging_waits_for_the_locks() -> None:
    """The control: to add a handler to a logger waits for ever under the same locks, and is killed."""
    done = run("log", 0.5)
    assert done.returncode == -signal.SIGALRM, done.stderr
