"""The ring: arithmetic of loss, holes, and readers that take nothing."""

import gc
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_events.bus.codec import decode, encode
from elastic_events.bus.context import Context
from elastic_events.bus.emit import Emitter
from elastic_events.bus.pump import GRACE, Cursor, Pump, to_records
from elastic_events.bus.record import Record
from elastic_events.bus.redact import Redactor
from elastic_events.bus.ring import Ring

CONTEXT = Context(run_id="run", process="p")


make = partial(to_records, context=CONTEXT, offset=0)


def put(ring: Ring, value: object = 1) -> int:
    """Emit one metric by hand."""
    take, slots, mask, now = ring.pipe
    seq = take()
    slots[seq & mask] = encode((seq, now(), "m", "g", value))
    return seq


def look(cursor: Cursor, now: float = 0.0, most: int = 2**31) -> list[Record]:
    """Read what is there."""
    return cursor.look(most, now, make)


def lost(cursor: Cursor, now: float) -> list[tuple[str, int, int]]:
    """Read what is there, and return what was found lost."""
    look(cursor, now)
    return cursor.lost


def test_reads_each_record_once_in_order() -> None:
    """A cursor gives every record once, in the order of the sequence."""
    ring = Ring(8)
    cursor = Cursor(ring)
    for value in range(5):
        put(ring, value)
    assert [record.fields[0] for record in look(cursor)] == [0, 1, 2, 3, 4]
    assert look(cursor) == []


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("header", [b"\x99", b"\xdc\x00\x09"])
def test_a_frame_that_is_too_long_does_not_say_who_speaks(place: int, header: bytes) -> None:
    """A record's context and the rest are the reader's to say, whatever a damaged or hostile frame holds besides its own."""
    ring = Ring(8)
    cursor = Cursor(ring)
    _, slots, _, now = ring.pipe
    for seq in range(3):
        put(ring, 0.5)
        if seq == place:
            slots[seq] = header + encode((seq, now(), "m", "g", 0.5, 7, {"run_id": "forged"}, 1, True))[1:]
    records = look(cursor)
    assert [record.seq for record in records] == [seq for seq in range(3) if seq != place]
    assert all(record.context is CONTEXT and record.time_ns == record.monotonic_ns for record in records)
    assert cursor.lost == [("undecodable", place, 1)]


def test_two_cursors_read_the_same_records() -> None:
    """Reading takes nothing: a second cursor sees what the first has read."""
    ring = Ring(8)
    first, second = Cursor(ring), Cursor(ring)
    put(ring)
    assert len(look(first)) == len(look(second)) == 1


@given(st.integers(1, 60), st.lists(st.integers(0, 30), max_size=8))
def test_loss_is_exact(before: int, bursts: list[int]) -> None:
    """Whatever the bursts between two looks, read plus overwritten is what was emitted (F52)."""
    ring = Ring(8)
    cursor = Cursor(ring)
    read = gone = 0
    for burst in [before, *bursts]:
        for _ in range(burst):
            put(ring)
        found = look(cursor)
        read += len(found)
        gone += sum(count for _, _, count in cursor.lost)
        assert len(found) == min(burst, 8)
    assert read + gone == ring.head


def test_interrupted_emitter_is_waited_for_and_does_not_hold_up_others() -> None:
    """A slot that was taken and not filled yet is passed, and read when it is filled within the grace time."""
    ring = Ring(8)
    cursor = Cursor(ring)
    take, slots, mask, now = ring.pipe
    hole = take()
    put(ring, "behind")
    assert [record.fields[0] for record in look(cursor, now=0.0)] == ["behind"]
    slots[hole & mask] = encode((hole, now(), "m", "g", "late"))
    assert [record.fields[0] for record in look(cursor, now=GRACE / 2)] == ["late"]
    assert cursor.behind() == 0


def test_abandoned_slot_is_counted_after_the_grace_time() -> None:
    """A slot that its emitter never fills is lost as interrupted, once, after the grace time."""
    ring = Ring(8)
    cursor = Cursor(ring)
    ring.pipe[0]()
    assert lost(cursor, now=0.0) == []
    assert cursor.behind() == 1
    assert lost(cursor, now=GRACE + 0.1) == [("interrupted", 0, 1)]
    assert lost(cursor, now=GRACE + 9) == []


def test_store_of_an_emitter_that_slept_a_whole_lap_is_not_taken_for_a_new_record() -> None:
    """An old sequence in a slot whose newer one is due counts as interrupted, never as that record."""
    ring = Ring(4)
    cursor = Cursor(ring)
    take, slots, mask, now = ring.pipe
    sleeper = take()
    for _ in range(4):
        put(ring)
    slots[sleeper & mask] = encode((sleeper, now(), "m", "g", "old"))
    assert [record.seq for record in look(cursor)] == [1, 2, 3]
    assert cursor.lost + lost(cursor, now=GRACE * 2) == [("overwritten", 0, 1), ("interrupted", 4, 1)]


def test_damaged_frame_costs_one_record() -> None:
    """A frame that cannot be decoded is counted, and the next is read."""
    ring = Ring(4)
    cursor = Cursor(ring)
    take, slots, mask, _now = ring.pipe
    slots[take() & mask] = b"\xc1"
    put(ring)
    assert [record.seq for record in look(cursor)] == [1]
    assert cursor.lost == [("undecodable", 0, 1)]


@pytest.mark.parametrize("capacity", [0, 1, 3, 1000])
def test_capacity_is_a_power_of_two(capacity: int) -> None:
    """A capacity that the mask cannot serve is refused with a sentence."""
    with pytest.raises(ValueError, match="power of two"):
        Ring(capacity)


@contextmanager
def alarms(handler: Any) -> Iterator[Callable[[], object]]:
    """Give what lets SIGALRM call `handler` once, at the next moment."""
    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield lambda: signal.setitimer(signal.ITIMER_REAL, 1e-6)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_signal_storm_loses_nothing_uncounted() -> None:
    """Emitting from a signal handler in the midst of emitting neither deadlocks nor miscounts (F47)."""
    ring = Ring(2**17)
    emitter = Emitter(ring.pipe, ring.pipe, Redactor())
    calls = depth = 0

    def handler(*_: object) -> None:
        nonlocal calls, depth
        calls += 1
        depth += 1
        # Each call asks for the next one, which interrupts it; by itself, a timer would give a slow machine no turn.
        if depth < 50 and calls < 5_000:
            again()
        emitter.put_metric("signal", calls)
        depth -= 1
        if depth == 0 and calls < 5_000:
            again()

    with alarms(handler) as again:
        again()
        for value in range(50_000):
            emitter.put_metric("main", value)
    cursor = Cursor(ring)
    found = look(cursor)
    assert calls > 10
    assert [r.fields[0] for r in found if r.name == "main"] == list(range(50_000))
    assert sum(r.name == "signal" for r in found) == calls
    assert cursor.lost == []


class Loud:
    """Emits when it is collected, and is part of a cycle so that only the collector frees it."""

    def __init__(self, emitter: Emitter) -> None:
        self.emitter = emitter
        self.me = self

    def __del__(self) -> None:
        self.emitter.put_metric("finalizer", 1)


def test_finalizers_that_emit_during_an_emit() -> None:
    """A garbage collection in the middle of emitting may emit (F46)."""
    ring = Ring(2**15)
    emitter = Emitter(ring.pipe, ring.pipe, Redactor())
    before = gc.get_threshold()
    gc.collect()
    gc.set_threshold(3)
    try:
        for value in range(2000):
            Loud(emitter)
            emitter.put_metric("main", {"nested": [value]})
    finally:
        gc.set_threshold(*before)
    gc.collect()
    found = look(Cursor(ring))
    assert [r.fields[0]["nested"][0] for r in found if r.name == "main"] == list(range(2000))
    assert sum(r.name == "finalizer" for r in found) == 2000


def test_threads_keep_their_own_order_and_nothing_is_lost(fast_switching: None) -> None:
    """Each thread's records come in its order, and every sequence is read or counted (F55)."""
    ring = Ring(2**16)
    emitter = Emitter(ring.pipe, ring.pipe, Redactor())

    def emit(thread: int) -> None:
        for value in range(2000):
            emitter.put_metric(str(thread), value)

    threads = [threading.Thread(target=emit, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = look(Cursor(ring))
    for thread in range(8):
        assert [r.fields[0] for r in found if r.name == str(thread)] == list(range(2000))


def test_frame_begins_with_its_sequence() -> None:
    """A frame carries its own sequence number: that is how a reader knows whose lap a slot is from."""
    ring = Ring(4)
    emitter = Emitter(ring.pipe, ring.pipe, Redactor())
    emitter.put_metric("x", 1.0)
    frame = ring.frames(0, 1)[0]
    assert frame is not None
    assert decode(frame)[0] == 0


class Taker:
    """What a pump hands out to, where nothing may be lost: the ring and the record, in order."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, Record]] = []

    def lose(self, ring: int, reason: str, first: int, count: int) -> None:
        """Refuse a loss."""
        raise AssertionError((ring, reason, first, count))

    def offer(self, ring: int, records: list[Record]) -> None:
        """Note what came."""
        self.taken += [(ring, record) for record in records]


def test_look_that_is_cut_short_behind_a_late_store() -> None:
    """A record that was stored late, and so is younger than those behind it, holds up no look."""
    events, metrics = Ring(8), Ring(8)
    take, slots, mask, now = events.pipe
    late = take()
    put(events)
    put(events)
    put(metrics)
    slots[late & mask] = encode((late, now(), "m", "g", 1))
    pump, taker = Pump([events, metrics], CONTEXT), Taker()
    for _ in range(4):
        pump.look(lambda: [taker], 0.0, 2)
    assert sorted((ring, record.seq) for ring, record in taker.taken) == [(0, 0), (0, 1), (0, 2), (1, 0)]


@pytest.mark.parametrize("flood", [0, 1])
def test_look_that_is_cut_short_leaves_what_is_younger_in_the_other_ring(flood: int) -> None:
    """Whichever ring has more than a look takes, the other's record comes after what was recorded before it."""
    rings = [Ring(8), Ring(8)]
    for _ in range(3):
        put(rings[flood], "first")
    put(rings[1 - flood], "last")
    pump, taker = Pump(rings, CONTEXT), Taker()
    assert [pump.look(lambda: [taker], 0.0, 2) for _ in range(3)] == [2, 2, 0]
    assert [record.fields[0] for _, record in taker.taken] == ["first", "first", "first", "last"]


class Got:
    """A receiver: what it was handed, and what it was told is lost."""

    def __init__(self) -> None:
        self.seqs: list[tuple[int, int]] = []
        self.lost: list[tuple[int, str, int, int]] = []

    def offer(self, ring: int, records: list[Record]) -> None:
        self.seqs += [(ring, record.seq) for record in records]

    def lose(self, ring: int, reason: str, first: int, count: int) -> None:
        self.lost.append((ring, reason, first, count))


def two_rings(hole: bytes | None) -> tuple[Pump, list[Ring], Got]:
    """Return a pump with ten old events; of four metrics those after the first are younger, and the third is `hole`."""
    rings = [Ring(16), Ring(16)]
    for ring, times in zip(rings, (range(10, 20), (1, 100, 101, 102)), strict=True):
        take, slots, mask, _ = ring.pipe
        for time in times:
            seq = take()
            slots[seq & mask] = encode((seq, time, "m", "g", 1))
    rings[1].pipe[1][2] = hole  # type: ignore[assignment]
    return Pump(rings, CONTEXT), rings, Got()


def test_what_a_look_put_back_is_lost_once() -> None:
    """A damaged frame that was read too early, and put back with the younger records before it, is counted once."""
    pump, _, got = two_rings(b"\xc1")
    pump.look(lambda: [got], 0.0, 4)  # of the events more wait, all of them older than these metrics
    assert got.seqs == [(1, 0)]
    assert got.lost == []
    for _ in range(3):
        pump.look(lambda: [got], 0.0, 16)
    assert got.lost == [(1, "undecodable", 2, 1)]
    assert sorted(got.seqs) == [(0, seq) for seq in range(10)] + [(1, 0), (1, 1), (1, 3)]


def test_what_a_look_put_back_is_read_once() -> None:
    """An interrupted emitter's record that was missed too early, and put back, is delivered once when it has come."""
    pump, rings, got = two_rings(None)
    pump.look(lambda: [got], 0.0, 4)
    assert got.seqs == [(1, 0)]
    rings[1].pipe[1][2] = encode((2, 101, "m", "g", 1))
    for _ in range(3):
        pump.look(lambda: [got], 0.0, 16)
    assert sorted(got.seqs) == [(0, seq) for seq in range(10)] + [(1, seq) for seq in range(4)]
    assert got.lost == []


def test_a_ring_that_laps_a_look_gives_no_record_twice() -> None:
    """Of slots that are filled anew between the look at the head and that at the slots, the old records count as overwritten."""
    ring = Ring(4)
    for value in range(6):
        put(ring, value)

    class Earlier:
        capacity, head = 4, 4
        frames, why_gone = ring.frames, ring.why_gone

    cursor = Cursor(Earlier())
    assert [record.seq for record in look(cursor)] == [2, 3]
    assert cursor.lost == [("overwritten", 0, 1), ("overwritten", 1, 1)]
    cursor.ring = ring
    assert [record.seq for record in look(cursor)] == [4, 5]
    assert cursor.lost == []


def test_any_thread_may_ask_how_far_a_cursor_is_behind() -> None:
    """What the drain waits for may come, or be given up, while another thread counts it."""
    ring = Ring(8)
    cursor = Cursor(ring)
    for _ in range(3):
        ring.pipe[0]()  # interrupted
    look(cursor)

    class Head(int):
        def __gt__(self, seq: object) -> bool:  # asked for each that is late: the drain has its turn
            cursor.late.pop(seq, None)  # type: ignore[call-overload]
            return True

    assert len(cursor.late) == 3
    assert cursor.behind(Head(3)) == 3
    assert not cursor.late


def test_numbers_of_another_ring_count_the_emitters_of_both() -> None:
    """An emitter that still has the ring of before takes a number that the new one counts."""
    old = Ring(2)
    put(old)
    new = Ring(2, numbers=old.numbers)
    put(old)
    put(new)
    assert (old.head, new.head) == (3, 3)
