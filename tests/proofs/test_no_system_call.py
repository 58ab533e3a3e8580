"""The hot path makes no system call: proved by a kernel that kills the process at the first one (promise 1).

A forked child installs a seccomp filter that allows `write` and `exit_group` only, then emits a million records. What the
filter cannot see is excluded from the proof: reading the clock, which the vDSO does without entering the kernel, and the
first touch of a page, which is a fault and no call. Memory comes from what the interpreter already holds: one lap of the
rings is emitted before the filter is installed. `SECCOMP_MODE_STRICT` would not do: it forbids the time-stamp counter that
the vDSO reads.
"""

import ctypes
import os
import platform
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from elastic_events import Event, EventSource
from elastic_events.bus.context import read_context
from elastic_events.bus.emit import Emitter
from elastic_events.bus.redact import Redactor
from elastic_events.bus.ring import Ring
from elastic_events.recorder.writer import open_rings

pytestmark = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="the filter is written for Linux on x86-64"
)

WRITE, EXIT_GROUP = 1, 231
LOAD_NUMBER, EQUAL, RETURN = 0x20, 0x15, 0x06
KILL, ALLOW = 0x80000000, 0x7FFF0000
EMITS = 1_000_000


def allow_only(*calls: int) -> None:
    """Let the kernel kill this process at any system call but `calls` (seccomp(2), BPF program)."""
    rows = [(LOAD_NUMBER, 0, 0, 0)]
    rows += [(EQUAL, len(calls) - index, 0, call) for index, call in enumerate(calls)]
    rows += [(RETURN, 0, 0, KILL), (RETURN, 0, 0, ALLOW)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *row) for row in rows))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(rows), ctypes.addressof(program)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, header, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def under_filter(warm: Callable[[], object], work: Callable[[], object]) -> int:
    """Run `warm`, then `work` under the filter, in a forked child; return how the child ended."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        warm()
        allow_only(WRITE, EXIT_GROUP)
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def emitter(kind: str, folder: Path) -> Emitter:
    """Return an emitter into rings in memory, or in a mapped file."""
    events, metrics = (Ring(), Ring()) if kind == "memory" else open_rings(folder / "rings", read_context())
    return Emitter(events.pipe, metrics.pipe, Redactor())


@pytest.mark.parametrize("kind", ["memory", "recorder"])
def test_a_million_emits_without_a_system_call(kind: str, tmp_path: Path) -> None:
    """Half a million metrics and half a million events of five keys make no system call."""
    emit = emitter(kind, tmp_path)
    event = Event("e", EventSource.WORKER, 0, {"run": "run-1", "rank": 3, "t": 1.5, "error": None, "role": "default"})

    def some(count: int) -> None:
        for number in range(count):
            emit.put_metric("loss", number)
            emit.record(event)

    assert under_filter(lambda: some(5000), lambda: some(EMITS // 2)) == 0


def test_the_filter_kills_at_a_system_call() -> None:
    """The control: a process that asks for its parent's id under the same filter is killed."""
    assert under_filter(lambda: None, os.getppid) == -signal.SIGSYS
