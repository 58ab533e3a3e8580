"""A forked child starts empty, delivers its own records, and never its parent's."""

import pickle
from collections import Counter
from pathlib import Path

import pytest

from elastic_events import EventBus
from tests.reliability.scripts import run


def test_child_starts_empty_and_drains_by_itself(tmp_path: Path) -> None:
    """Nine records of before the fork arrive once, from the parent; the child's own arrive from the child (F2, F3)."""
    body = """
    bus = elastic_events.start(File(), interval=60)
    emit(9, "parent")
    child = os.fork()
    if child == 0:
        emit(5, "child")
        assert elastic_events.current_bus().flush_sync()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    print(child)
    """
    done = run(body, tmp_path)
    assert done.values("parent") == list(range(9)), done.stderr
    assert done.values("child") == list(range(5))
    pids = {row[1]: row[3] for row in done.rows}
    assert pids["child"] == int(done.stdout)
    assert pids["child"] != pids["parent"]
    assert max(Counter(row[4] for row in done.rows).values()) == 1


def test_child_drains_on_its_timer(tmp_path: Path) -> None:
    """A child that never flushes is drained too, by a drain that its first emit starts (F3)."""
    body = """
    elastic_events.start(File(), interval=0.01)
    child = os.fork()
    if child == 0:
        emit(5, "child")
        for _ in range(500):
            if os.path.exists(OUT) and open(OUT).read().count("child") == 5: os._exit(0)
            time.sleep(0.01)
        os._exit(1)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    done = run(body, tmp_path)
    assert done.code == 0, done.stderr
    assert done.values("child") == list(range(5))


def test_multiprocessing_fork_child_of_a_started_bus(tmp_path: Path) -> None:
    """A child of a process that had a bus delivers at its own end, without a line of code (F10)."""
    body = """
    import multiprocessing
    elastic_events.start(File())
    emit(3, "parent")
    child = multiprocessing.get_context("fork").Process(target=emit, args=(200, "child"))
    child.start()
    child.join()
    """
    done = run(body, tmp_path)
    assert done.values("child") == list(range(200)), done.stderr
    assert done.values("parent") == [0, 1, 2]


def test_fork_while_threads_emit_flush_and_subscribe(tmp_path: Path) -> None:
    """Forking at any moment leaves parent and child working: no lock of ours is needed in the child (F1, F4, F5)."""
    body = """
    import logging
    bus = elastic_events.start(File(), interval=0.001)
    stop = threading.Event()
    def emitting():
        while not stop.is_set(): emit(20, "noise"); time.sleep(0.0005)
    def flushing():
        while not stop.is_set(): bus.flush_sync(1)
    def holding():
        lock = bus._subscribing
        while not stop.is_set():
            with lock: time.sleep(0.001)
    async def nothing(record): pass
    threads = [threading.Thread(target=t) for t in (emitting, flushing, holding)]
    for t in threads: t.start()
    for n in range(30):
        child = os.fork()
        if child == 0:
            signal.alarm(15)
            bus.subscribe(nothing)
            emit(3, f"child{n}")
            ok = bool(bus.flush_sync(5)) and bool(bus.close(5))
            os._exit(0 if ok else 1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status == 0, (n, status)
    stop.set()
    for t in threads: t.join()
    """
    done = run(body, tmp_path, timeout=90)
    assert done.code == 0, done.stderr
    for number in range(30):
        assert done.values(f"child{number}") == [0, 1, 2]


def test_child_of_a_bus_with_a_given_context_has_ids_of_its_own(tmp_path: Path) -> None:
    """A context that the user gave does not make parent and child share ids."""
    body = """
    elastic_events.start(File(), context=elastic_events.Context("run", "process"))
    emit(5)
    child = os.fork()
    if child == 0:
        emit(5)
        elastic_events.current_bus().flush_sync()
        os._exit(0)
    os.waitpid(child, 0)
    """
    done = run(body, tmp_path)
    ids = [row[4] for row in done.rows if row[0] == "metric"]
    assert len(ids) == len(set(ids)) == 10, done.stderr


def test_child_of_an_event_loops_bus_has_no_bus(tmp_path: Path) -> None:
    """A bus of an event loop is closed in a forked child: its loop does not run there; emitting does no harm (F6)."""
    body = """
    import asyncio, gc
    async def main():
        async with EventBus(File()) as bus:
            emit(2, "parent")
            child = os.fork()
            if child == 0:
                emit(5, "child")
                print(bus.stats().state, elastic_events.current_bus(), flush=True)
                del bus
                gc.collect()
                os._exit(0)
            os.waitpid(child, 0)
    asyncio.run(main())
    """
    done = run(body, tmp_path)
    assert done.stdout == "closed None\n", done.stderr
    assert done.values("parent") == [0, 1]
    assert done.values("child") == []


def test_fork_from_c_is_noticed(tmp_path: Path) -> None:
    """A fork that skips Python's hooks sends nothing twice (F14)."""
    body = """
    import ctypes
    bus = elastic_events.start(File(), interval=60)
    emit(5, "parent")
    child = ctypes.PyDLL(None).fork()
    if child == 0:
        emit(5, "child")
        bus.flush_sync(1)
        os._exit(0)
    os.waitpid(child, 0)
    """
    done = run(body, tmp_path)
    assert done.values("parent") == list(range(5)), done.stderr


def test_bus_cannot_be_pickled() -> None:
    """A bus given to a spawned process is refused with what to do instead (F12)."""
    with pytest.raises(TypeError, match="cannot be sent to another process"):
        pickle.dumps(EventBus())


def test_child_makes_no_lane_again_that_was_unsubscribed(tmp_path: Path) -> None:
    """What its parent had given up gets nothing in the child either; the other lanes go on."""
    body = """
    bus = elastic_events.start(File())
    async def other(record): open("other", "a").write("x")
    bus.subscribe(other).unsubscribe()
    child = os.fork()
    if child == 0:
        emit(5, "child")
        assert elastic_events.current_bus().flush_sync()
        os._exit(len(elastic_events.current_bus().stats().lanes))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    done = run(body, tmp_path)
    assert done.values("child") == list(range(5)), done.stderr
    assert done.stdout == "1\n"
    assert not (tmp_path / "other").exists()
