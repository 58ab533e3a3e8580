"""A forked child starts empty, delivers its own records, and never its parent's."""

import pickle
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from elastic_events import EventBus
from elastic_events.bus.fork import every_bus
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


@pytest.mark.parametrize("end", ["sys.exit()", "raise ValueError"])
def test_child_that_records_nothing_writes_nothing(end: str, tmp_path: Path) -> None:
    """It opened its parent's sinks when it ended, and wrote a ledger in its parent's name: a file cut later looked complete."""
    body = f"""
    elastic_events.start(File(), interval=60)
    child = os.fork()
    if child == 0: {end}
    os.waitpid(child, 0)
    emit(1, "parent")
    """
    done = run(body, tmp_path)
    assert done.kinds == ["metric", "ledger"], done.stderr


def test_child_that_records_nothing_waits_for_no_collector(tmp_path: Path) -> None:
    """It waited for the end of the one that its parent, which lives, still needs."""
    body = """
    elastic_events.start("jsonl:///" + OUT + ".jsonl", timeout=300)
    child = os.fork()
    if child == 0: sys.exit()
    os.waitpid(child, 0)
    print("ended")
    elastic_events.stop(20)
    """
    done = run(body, tmp_path, timeout=60)
    assert done.stdout == "ended\n", done.stderr


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


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_child_leaves_the_block_of_its_parents_bus(backend: str, tmp_path: Path) -> None:
    """What ends a child inside the block of an event loop's bus ends it as it would without: with its own exit code."""
    body = """
    import anyio
    async def main():
        async with EventBus(File(), interval=60) as bus:
            emit(2, "parent")
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                try: print(bool(await bus.flush()), bool(await bus.aclose()), flush=True)
                finally: sys.exit(7)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
            if os.environ["BACKEND"] == "trio": os._exit(0)  # its epoll is the child's, too, which took it apart
    anyio.run(main, backend=os.environ["BACKEND"])
    """
    done = run(body, tmp_path, BACKEND=backend)
    assert done.stdout == "True True\n7\n", done.stderr
    assert done.values("parent") == ([0, 1] if backend == "asyncio" else [])


def test_lane_that_a_child_has_of_its_parent_is_its_own(tmp_path: Path) -> None:
    """A child that holds a lane of before the fork sees its own numbers there, and ends it."""
    body = """
    import asyncio
    bus = elastic_events.start(File())
    got = []
    async def other(record): got.append(record.name)
    lane, gone = bus.subscribe(other), bus.subscribe(other)
    emit(3, "parent")
    assert bus.flush_sync()
    gone.unsubscribe()
    if os.fork() == 0:
        signal.alarm(20)
        got.clear()
        emit(2, "child")
        assert bus.flush_sync()
        print(lane.stats().delivered, got, flush=True)
        lane.unsubscribe()
        emit(2, "later")
        assert bus.flush_sync()
        asyncio.run(lane.aclose())
        asyncio.run(gone.aclose())
        print(got, flush=True)
        os._exit(0)
    os.wait()
    """
    done = run(body, tmp_path)
    assert done.stdout == "2 ['child', 'child']\n['child', 'child']\n", done.stderr
    assert done.values("later") == [0, 1]


def test_destination_is_served_once_in_a_child(tmp_path: Path) -> None:
    """A logging handler that had events before the fork gets each of the child's once."""
    body = """
    with EventBus(File()) as bus:
        bus.record(Event("parent", EventSource.AGENT), "console")
        assert bus.flush_sync()
        if os.fork() == 0:
            bus.record(Event("child", EventSource.AGENT), "console")
            assert bus.flush_sync()
            os._exit(0)
        os.wait()
    """
    done = run(body, tmp_path)
    assert done.stderr.count("child") == 1, done.stderr
    assert done.stderr.count("parent") == 1


def test_ctrl_c_where_a_child_begins(tmp_path: Path) -> None:
    """Ctrl-C in the midst of a child's first record ends that record only: the next one has its drain."""
    body = """
    import elastic_events.bus.life as life
    bus, real = elastic_events.start(File()), life.read_context
    def interrupted():
        life.read_context = real
        signal.raise_signal(signal.SIGINT)
    life.read_context = interrupted
    if os.fork() == 0:
        try: emit(1, "first")
        except KeyboardInterrupt: print("interrupted", flush=True)
        emit(3, "child")
        assert bus.flush_sync()
        os._exit(0)
    os.wait()
    """
    done = run(body, tmp_path)
    assert done.stdout == "interrupted\n", done.stderr
    assert done.values("child") == [0, 1, 2]


def test_child_without_a_recorder_where_warnings_are_errors(tmp_path: Path) -> None:
    """A child that can have no recorder file has a ring in memory, also where the warning of it cannot be given."""
    directory = tmp_path / "recorders"
    body = """
    import shutil
    with EventBus(File(), recorder=os.environ["RECORDERS"]) as bus:
        if os.fork() == 0:
            shutil.rmtree(os.environ["RECORDERS"])
            open(os.environ["RECORDERS"], "w").close()
            bus.put_metric("child", 0)
            assert bus.flush_sync()
            os._exit(0)
        os.wait()
    """
    done = run(body, tmp_path, RECORDERS=str(directory))
    assert done.values("child") == [0], done.stderr


def test_two_threads_that_start_at_once_have_one_sink(tmp_path: Path) -> None:
    """Who comes second finds the URL that the first one's bus has, however far that has come."""
    url = f"jsonl:///{tmp_path}/run.jsonl"
    body = """
    import elastic_events.recording as recording
    real, first = recording._claim, []
    def claim(bus):
        found = real(bus)
        if not first:
            first.append(bus)
            second = threading.Thread(target=start)
            second.start()
            second.join()
        return found
    def start(): elastic_events.start(os.environ["URL"], drain="thread")
    recording._claim = claim
    start()
    emit(3)
    assert elastic_events.stop()
    """
    done = run(body, tmp_path, URL=url)
    assert done.code == 0, done.stderr
    assert (tmp_path / "run.jsonl").read_text().count('"metric"') == 3


def test_spool_of_a_child_is_its_own(tmp_path: Path) -> None:
    """What a child subscribes before its first record keeps its spool: its sink is away, and its records are on disk."""
    body = """
    class Away(File):
        async def open(self): raise OSError("away")
    with EventBus() as bus:
        if os.fork() == 0:
            bus.subscribe(Away(), spool=OUT + ".spool")
            emit(3, "child")
            bus.close(1)
            os._exit(0)
        os.wait()
    """
    run(body, tmp_path)
    assert list((tmp_path / "out.spool").glob("metrics-*.spool"))


def test_childs_child_opens_a_bus_that_was_not_open(tmp_path: Path) -> None:
    """A program makes its bus, becomes a daemon by two forks, and opens it then: as if it had not forked."""
    body = """
    bus = EventBus(File())
    for _ in range(2):
        if os.fork():
            sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
    with bus:
        record(Event("daemon", EventSource.WORKER))
    """
    done = run(body, tmp_path)
    assert done.code == 0, done.stderr
    assert [row[1] for row in done.rows if row[0] == "event"] == ["daemon"]


def test_child_of_a_bus_that_is_about_to_be_closed_leaves_the_parents_file_alone(tmp_path: Path) -> None:
    """A thread that closes a bus is held up by its last words: what a child records meanwhile is none of the parent's."""
    body = """
    async def nothing(record): pass
    bus = EventBus(nothing, recorder=sys.argv[0] + ".d")
    bus.open()
    closing, go_on = threading.Event(), threading.Event()
    bus._say_lost = lambda: (closing.set(), go_on.wait(30))
    closer = threading.Thread(target=bus.close)
    closer.start()
    closing.wait(30)
    child = os.fork()
    if child == 0:
        record(Event("of-the-child", EventSource.WORKER))
        bus.record(Event("of-the-child", EventSource.WORKER))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    (file,) = os.listdir(sys.argv[0] + ".d")
    assert b"of-the-child" not in open(f"{sys.argv[0]}.d/{file}", "rb").read()
    go_on.set()
    closer.join()
    """
    done = run(body, tmp_path)
    assert done.code == 0, done.stderr


#: Of a child: the first record of a thread begins the bus anew, and is held there; a second one is recorded beside it.
ANEW = """
    def begins_in_another_thread():
        held, go_on, begin = threading.Event(), threading.Event(), bus._begin_anew
        bus._begin_anew = lambda: (held.set(), go_on.wait(30), begin())
        first = threading.Thread(target=record, args=(Event("first", EventSource.WORKER),))
        first.start()
        held.wait(30)
        put_metric("second", 2)
        return first, go_on
"""


def test_child_that_begins_anew_in_one_thread_lets_another_flush_wait(tmp_path: Path) -> None:
    """A flush that meets the first record of another thread waits for nothing less than what was recorded before it."""
    body = """
    from pathlib import Path
    bus = elastic_events.start(File(), interval=60)
    child = os.fork()
    if child == 0:
        (first, go_on), answers = begins_in_another_thread(), []
        asks = {
            "flush": lambda: (bus.flush_sync(), Path(OUT).read_text()),
            "subscribe": lambda: bus.subscribe(File(), name="late"),
        }
        for ask in asks.values():
            asking = threading.Thread(target=lambda: answers.append(ask()))
            asking.start()
            asking.join(0.1)  # it has begun; where it does not wait, it is over
        go_on.set()
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon: thread.join(30)
        (done, text), = (answer for answer in answers if type(answer) is tuple)
        assert done and "second" in text, (done, text)
        assert "late" in [lane.name for lane in bus.lanes]
        assert bus.flush_sync()
        os._exit(0)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    done = run(ANEW + body, tmp_path)
    assert done.code == 0, done.stderr
    assert {"first", "second"} <= {row[1] for row in done.rows}


def test_child_that_begins_anew_by_a_flush_loses_no_record_of_another_thread(tmp_path: Path) -> None:
    """What another thread records while a flush begins a child's bus anew arrives, though nobody records after it."""
    body = """
    bus = elastic_events.start(File(), interval=60)
    child = os.fork()
    if child == 0:
        begin = bus._begin_anew
        def begin_slowly():
            for emit in (lambda: record(Event("event", EventSource.WORKER)), lambda: put_metric("metric", 1)):
                other = threading.Thread(target=emit)
                other.start()
                other.join(30)
            begin()
        bus._begin_anew = begin_slowly
        assert bus.flush_sync()
        os._exit(0)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    done = run(body, tmp_path)
    assert done.code == 0, done.stderr
    assert sorted(row[1] for row in done.rows if row[0] != "ledger") == ["event", "metric"]


def test_flush_in_the_thread_that_begins_a_child_anew_says_what_waits(tmp_path: Path) -> None:
    """A signal handler that flushes there, where nobody can wait, is told of what another thread recorded by then."""
    body = """
    bus = elastic_events.start(File(), interval=60)
    child = os.fork()
    if child == 0:
        answers, begin = [], bus._begin_anew
        def interrupted():
            other = threading.Thread(target=lambda: [put_metric("metric", 1) for _ in range(3)])
            other.start()
            other.join(30)
            answers.append(bus.flush_sync(0))
            begin()
        bus._begin_anew = interrupted
        record(Event("event", EventSource.WORKER))
        assert answers[0].undelivered == {"file": 3}, answers
        assert bus.flush_sync()
        os._exit(0)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    done = run(body, tmp_path)
    assert done.code == 0, done.stderr
    assert sorted(row[1] for row in done.rows if row[0] != "ledger") == ["event", *["metric"] * 3]


def test_child_that_closes_while_another_thread_begins_anew_delivers_both(tmp_path: Path) -> None:
    """A close that meets the first record of another thread is the end of the bus, and delivers what was recorded before it."""
    body = """
    from pathlib import Path
    bus = elastic_events.start(File(), interval=60)
    child = os.fork()
    if child == 0:
        (first, go_on), answers = begins_in_another_thread(), []
        closing = threading.Thread(target=lambda: answers.append((bus.close(), Path(OUT).read_text())))
        closing.start()
        closing.join(0.1)  # as above
        go_on.set()
        first.join(30)
        closing.join(30)
        ((done, text),) = answers
        assert done and "second" in text and bus.stats().state == "closed", (done, text, bus)
        os._exit(0)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    done = run(ANEW + body, tmp_path)
    assert done.code == 0, done.stderr


def test_buses_come_while_they_are_listed() -> None:
    """Any thread may make a bus while another one looks for its own."""
    made = [EventBus(recorder=False)]

    def meanwhile(
        _frame: FrameType, _event: str, _arg: object
    ) -> Any:  # between two lines, another thread has its turn
        if len(made) < 5:
            made.append(EventBus(recorder=False))
        return meanwhile

    before = sys.gettrace()
    sys.settrace(meanwhile)
    try:
        found = every_bus()
    finally:
        sys.settrace(before)
    assert len(made) == 5
    assert made[0] in found
