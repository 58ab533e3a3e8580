"""Hung handlers cost the emitter nothing: it executes the same instructions and calls the same C functions, one by one.

Instructions are counted, not seconds, so that a busy machine cannot make the test pass or fail.
"""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, cast

import anyio

from elastic_events import Event, EventBus, EventSource

EVENT = Event("e", EventSource.WORKER, 0, {"rank": 3, "role": "default"})
NESTED = Event("e", EventSource.WORKER, 0, cast("Any", {"rank": {"of": [1, 2]}}))


def steps(call: Callable[[], object]) -> list[Any]:
    """Return each instruction (code, offset) and each C function that `call` executes in this thread."""
    seen: list[Any] = []

    def trace(frame: FrameType, kind: str, _value: Any) -> Any:
        frame.f_trace_opcodes = True
        if kind == "opcode":
            seen.append((frame.f_code.co_qualname, frame.f_lasti))
        return trace

    def profile(_frame: FrameType, kind: str, function: Any) -> None:
        if kind == "c_call":
            seen.append(function.__qualname__)

    before = sys.gettrace(), sys.getprofile()
    sys.settrace(trace)
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.settrace(before[0])
        sys.setprofile(before[1])
    return seen


def emit(bus: EventBus) -> None:
    """Emit a lap and a half of the rings, so that records are overwritten too."""
    for number in range(100):
        bus.put_metric("loss", number)
        bus.record(EVENT)


async def hang(_records: Any) -> None:
    await anyio.sleep_forever()


def test_the_same_instructions_with_every_handler_hung() -> None:
    """With eight handlers hung and their queues full, an emit executes what it executes on a bus without handlers."""
    idle = EventBus(capacity=64)
    stuck = EventBus(capacity=64, deadline=0.1)
    for number in range(8):
        stuck.subscribe(hang, name=f"hung{number}", timeout=None, backlog=64)
    with idle, stuck:
        for bus in (idle, stuck):
            emit(bus)  # the first event of a key goes the long way
        once = steps(lambda: emit(idle))
        assert steps(lambda: emit(stuck)) == once
    assert any(step[0] == "Emitter.put_metric" for step in once)


def test_other_work_shows_as_other_instructions() -> None:
    """The control: an event that takes the long way executes other instructions."""
    with EventBus() as bus:
        emit(bus)
        assert steps(lambda: bus.record(EVENT)) != steps(lambda: bus.record(NESTED))
