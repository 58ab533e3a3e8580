"""The end of a process that has several buses, a loop that stopped, or no thread to start any more: nothing is lost unsaid."""

import textwrap
from pathlib import Path

import pytest

from tests.reliability.scripts import run

#: Ways in which a program leaves an event loop without leaving the block of its bus.
LEFT = {
    "sys.exit in another task": """
        async def leave(): sys.exit(3)
        async def main():
            async with EventBus(File(), interval=60):
                emit(200)
                task = asyncio.ensure_future(leave())
                await asyncio.sleep(60)
        asyncio.run(main())
    """,
    "sys.exit in a callback": """
        async def main():
            async with EventBus(File(), interval=60):
                emit(200)
                asyncio.get_running_loop().call_soon(sys.exit, 3)
                await asyncio.sleep(60)
        asyncio.run(main())
    """,
    "sys.exit under run_until_complete": """
        async def main():
            async with EventBus(File(), interval=60):
                emit(200)
                asyncio.get_running_loop().call_soon(sys.exit, 3)
                await asyncio.sleep(60)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
    """,
    "Ctrl-C under run_until_complete": """
        async def main():
            async with EventBus(File(), interval=60):
                emit(200)
                asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGINT)
                await asyncio.sleep(60)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
    """,
    "loop.stop": """
        async def main():
            async with EventBus(File(), interval=60):
                emit(200)
                asyncio.get_running_loop().stop()
                await asyncio.sleep(60)
        loop = asyncio.new_event_loop()
        task = loop.create_task(main())
        loop.run_forever()
        loop.close()
    """,
    "all tasks cancelled": """
        async def main():
            async with EventBus(File(), interval=60):
                emit(200)
                for task in asyncio.all_tasks(): task.cancel()
                await asyncio.sleep(60)
        try: asyncio.run(main())
        except asyncio.CancelledError: pass
    """,
    "the block is never left": """
        async def main():
            global bus
            bus = EventBus(File(), interval=60)
            await bus.__aenter__()
            emit(200)
        asyncio.run(main())
    """,
}


@pytest.mark.parametrize("way", LEFT)
def test_loop_that_ends_without_leaving_the_block(way: str, tmp_path: Path) -> None:
    """What was recorded on a bus in an event loop is delivered, whatever stops the loop."""
    done = run("import asyncio\n" + textwrap.dedent(LEFT[way]), tmp_path)
    assert done.values() == list(range(200)), done.stderr
    assert done.kinds[-1] == "ledger"
    assert "elastic_events: " not in done.stderr


def test_batch_that_was_under_way_is_delivered_first(tmp_path: Path) -> None:
    """Records that a sink had when its loop was stopped are delivered before those behind them."""
    body = """
    import asyncio
    class Slow(File):
        async def write(self, records):
            if loop.is_running(): await asyncio.sleep(60)
            await super().write(records)
    async def main():
        async with EventBus(interval=0.01) as bus:
            lane = bus.subscribe(Slow(), batch_size=10)
            emit(200)
            while not lane._flight: await asyncio.sleep(0.01)
            loop.stop()
            await asyncio.sleep(60)
    loop = asyncio.new_event_loop()
    task = loop.create_task(main())
    loop.run_forever()
    """
    done = run(body, tmp_path)
    assert done.values() == list(range(200)), done.stderr


def test_what_a_stopped_loop_leaves_undelivered_is_said(tmp_path: Path) -> None:
    """A sink that hangs then, too, costs the deadline, and a sentence says how many records are lost."""
    body = """
    import asyncio
    async def hang(record): await asyncio.sleep(60)
    async def main():
        async with EventBus(hang, timeout=0.2):
            emit(200)
            asyncio.get_running_loop().stop()
            await asyncio.sleep(60)
    loop = asyncio.new_event_loop()
    task = loop.create_task(main())
    loop.run_forever()
    """
    done = run(body, tmp_path)
    assert "handler 'hang' lost 200 of 200 records: 200 shutdown_deadline" in done.stderr


def test_all_buses_are_drained_at_exit(tmp_path: Path) -> None:
    """Each of several buses is drained, those in threads and one whose loop is gone."""
    body = """
    import asyncio
    buses = [EventBus(File(), interval=60) for _ in range(4)]
    for number, bus in enumerate(buses):
        bus.open()
        for value in range(50): bus.put_metric(f"m{number}", value)
    async def main():
        bus = EventBus(File(), interval=60)
        await bus.__aenter__()
        for value in range(50): bus.put_metric("loop", value)
        asyncio.get_running_loop().stop()
    loop = asyncio.new_event_loop()
    task = loop.create_task(main())
    loop.run_forever()
    """
    done = run(body, tmp_path)
    for name in ("m0", "m1", "m2", "m3", "loop"):
        assert done.values(name) == list(range(50)), (name, done.stderr)


def test_exit_deadlines_do_not_add_up(tmp_path: Path) -> None:
    """Five buses that hang cost the exit one deadline: the longest."""
    body = """
    import anyio
    async def hang(record): await anyio.sleep_forever()
    for _ in range(5):
        bus = EventBus(hang, timeout=2)
        bus.open()
        bus.put_metric("m", 1)
    began = time.monotonic()
    atexit._run_exitfuncs()
    print(time.monotonic() - began)
    """
    done = run(body, tmp_path)
    assert done.code == 0, done.stderr
    assert 1.9 < float(done.stdout) < 6


def test_bus_that_opens_while_others_close(tmp_path: Path) -> None:
    """A handler that starts a bus as the process ends does not keep another from being drained."""
    body = """
    def late():
        bus = EventBus(File(), interval=60)
        bus.open()
        bus.put_metric("late", 1)
    class First(File):
        async def aclose(self): late(); await super().aclose()
    for number in range(3):
        bus = EventBus(First() if not number else File(), interval=60)
        bus.open()
        bus.put_metric("m", number)
    """
    done = run(body, tmp_path)
    assert sorted(done.values()) == [0, 1, 2], done.stderr
    assert done.values("late") == [1]


def test_eight_threads_that_use_the_console_first_start_one_bus(tmp_path: Path) -> None:
    """Threads that come to a destination at once share one bus in the background, and lose nothing."""
    body = """
    made = []
    class Counted(EventBus):
        def _open_soon(self): made.append(self); super()._open_soon()
    import elastic_events.recording as recording
    recording.EventBus = Counted
    sys.setswitchinterval(1e-6)
    gate = threading.Barrier(8)
    def work(number):
        gate.wait()
        record(Event(f"e{number}", EventSource.WORKER), "console")
    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert elastic_events.stop()
    print(len(made))
    """
    done = run(body, tmp_path)
    assert done.stdout == "1\n"
    assert sorted(line for line in range(8) if f'"e{line}"' in done.stderr) == list(range(8)), done.stderr


def test_buses_that_open_and_close_in_threads_leave_none_current(tmp_path: Path) -> None:
    """After any order of opening and closing in threads, no bus is current."""
    body = """
    sys.setswitchinterval(1e-6)
    from elastic_events.front import front
    class Fake:
        _leaving = False
        def __init__(self): self._emitter = EventBus()._emitter
    def churn():
        for _ in range(300):
            bus = Fake()
            front.opened(bus)
            front.closed(bus)
    threads = [threading.Thread(target=churn) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print(front.buses, front.emitter.events)
    """
    done = run(body, tmp_path)
    assert done.stdout == "[] None\n", done.stderr


def test_recorder_is_let_go_of_when_its_bus_closes(tmp_path: Path) -> None:
    """A program that opens and closes buses with a recorder holds on to no file and no map of theirs."""
    body = f"""
    import gc
    from pathlib import Path
    def held():
        gc.collect()
        return len(os.listdir("/proc/self/fd")), Path("/proc/self/maps").read_text().count(".ring")
    before, buses = held(), []
    for _ in range(5):
        with EventBus(recorder={str(tmp_path / "recorders")!r}) as bus:
            emit(3)
        bus.put_metric("late", 1)
        buses.append(bus)
    print(held() == before, [bus.stats().closed for bus in buses], all(bus.stats().recorder for bus in buses))
    """
    done = run(body, tmp_path)
    assert done.stdout == "True [1, 1, 1, 1, 1] True\n", done.stderr


def test_handler_of_metrics_that_is_configured_last_gets_its_points(tmp_path: Path) -> None:
    """A lane whose thread would start as the interpreter shuts down delivers all the same, on every Python."""
    body = """
    from elastic_metrics import configure, MetricHandler
    class Print(MetricHandler):
        def emit(self, data): os.write(1, b"x")
    configure(Print())
    emit(1000)
    """
    done = run(body, tmp_path)
    assert done.stdout == "x" * 1000, done.stderr


def test_console_of_the_last_line_is_written(tmp_path: Path) -> None:
    """The example of docs/differences.md: an event for the console on the last line of a script is printed, on every Python."""
    done = run('record(Event("last", EventSource.WORKER), "console")', tmp_path)
    assert '"last"' in done.stderr


def test_console_in_a_hook_of_the_exit_is_written(tmp_path: Path) -> None:
    """Where no thread can be started any more, a bus that is first used then is drained by the exit itself."""
    body = """
    def hook():
        record(Event("last", EventSource.WORKER), "console")
    atexit.register(hook)
    """
    done = run(body, tmp_path)
    assert '"last"' in done.stderr


def test_bus_made_before_a_fork_and_opened_in_the_children(tmp_path: Path) -> None:
    """Each child that opens it has ids and a recorder of its own, and what the parent had recorded is the parent's."""
    body = f"""
    bus = EventBus(File(), recorder={str(tmp_path / "recorders")!r})
    bus.put_metric("parent", 1)
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            with bus: emit(50, f"child{{number}}")
            os._exit(0)
        children.append(child)
    for child in children: os.waitpid(child, 0)
    with bus: pass
    print(len([name for name in os.listdir({str(tmp_path / "recorders")!r}) if name.endswith(".ring")]))
    """
    done = run(body, tmp_path)
    ids = [row[4] for row in done.rows if row[0] == "metric"]
    assert len(ids) == len(set(ids)) == 201, done.stderr
    assert len({row[3] for row in done.rows if row[1].startswith("child")}) == 4
    assert done.stdout == "5\n"


@pytest.mark.parametrize("how", ["raise OSError('disk full')", "await anyio.sleep_forever()", "time.sleep(8)"])
def test_sink_that_cannot_be_opened_in_a_forked_child(how: str, tmp_path: Path) -> None:
    """It is told once, a flush says within its deadline that something is left, and the other lanes work."""
    body = f"""
    import anyio
    class Bad(File):
        name = "bad"
        async def open(self):
            if os.getpid() != parent: {how}
        async def write(self, records): pass
        async def aclose(self): pass
    parent = os.getpid()
    bus = elastic_events.start(File(), Bad())
    child = os.fork()
    if child == 0:
        emit(20, "child")
        began = time.monotonic()
        left = bus.flush_sync(0.5).undelivered
        took = time.monotonic() - began
        os.write(1, json.dumps([left.get("bad"), took < 5]).encode())
        if "time.sleep" not in {how!r}: assert "file" not in bus.flush_sync(0.5).undelivered
        os._exit(0)
    os.waitpid(child, 0)
    """
    done = run(body, tmp_path)
    assert done.stdout == "[20, true]", done.stderr
    if "sleep" not in how:
        assert done.stderr.count("elastic_events: sink 'bad' cannot be opened, trying again: OSError: disk full") == 1
    if "time" not in how:  # what blocks the loop that all lanes share blocks them all
        assert done.values("child") == list(range(20))


def test_exit_is_one_deadline_in_multiprocessing_children_too(tmp_path: Path) -> None:
    """A child that ends with several buses drains them all."""
    body = """
    import multiprocessing
    def work():
        for number in range(3):
            bus = EventBus(File(), interval=60)
            bus.open()
            bus.put_metric("m", number)
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    began = time.monotonic()
    child.join()
    """
    done = run(body, tmp_path)
    assert sorted(done.values()) == [0, 1, 2], done.stderr


def test_start_while_another_thread_stops_gives_a_bus_that_is_open(tmp_path: Path) -> None:
    """A bus that another thread stops takes no handler any more: a start waits for its end and begins a new one."""
    body = """
    held, go_on = threading.Event(), threading.Event()
    async def slow(record):
        import anyio
        held.set()
        await anyio.to_thread.run_sync(go_on.wait, 30)
    first = elastic_events.start(slow)
    record(Event("first", EventSource.WORKER))
    held.wait(30)
    stopping = threading.Thread(target=elastic_events.stop)
    stopping.start()
    while first.stats().state != "closing": time.sleep(0.001)
    close = first.close
    first.close = lambda timeout=None: (go_on.set(), close(timeout))[1]
    try: first.subscribe(File())
    except elastic_events.BusClosed: pass
    else: raise AssertionError("a bus that closes took a handler")
    second = elastic_events.start(File())
    assert second is not first and first.stats().state == "closed" and second.stats().state == "open"
    record(Event("second", EventSource.WORKER))
    assert elastic_events.stop()
    stopping.join(30)
    """
    done = run(body, tmp_path)
    assert done.code == 0, done.stderr
    assert [row[1] for row in done.rows if row[0] == "event"] == ["second"]


def test_start_on_a_bus_that_is_stopped_just_then_begins_a_new_one(tmp_path: Path) -> None:
    """Another thread may stop the bus between the look at it and the subscription."""
    body = """
    first = elastic_events.start(File(), interval=60)
    from elastic_events import recording
    join = recording._join
    def stopped(bus, handler):
        recording._join = join
        other = threading.Thread(target=elastic_events.stop)
        other.start()
        other.join(30)
        join(bus, handler)
    recording._join = stopped
    second = elastic_events.start(File())
    assert second is not first and second.stats().state == "open"
    record(Event("second", EventSource.WORKER))
    assert elastic_events.stop()
    """
    done = run(body, tmp_path)
    assert done.code == 0, done.stderr
    assert [row[1] for row in done.rows if row[0] == "event"] == ["second"]


def test_a_wrong_configure_leaves_that_of_another_thread_alone(tmp_path: Path) -> None:
    """Two threads configure at once, one of them nonsense: that is told to who did it, and to nobody else."""
    body = """
    import elastic_metrics
    from elastic_events import ConfigError, recording
    seen, others = [], []
    class Good(elastic_metrics.MetricHandler):
        def emit(self, point): seen.append(point.name)
    def configure():
        try: elastic_metrics.configure(Good())
        except BaseException as error: others.append(error)
    default_bus = recording.default_bus
    def slowly():
        recording.default_bus = default_bus
        others.append(threading.Thread(target=configure))
        others[0].start()
        others[0].join(0.1)  # it is over, or waits for this one
        return default_bus()
    recording.default_bus = slowly
    try: elastic_metrics.configure(object(), "group")
    except ConfigError: pass
    else: raise AssertionError
    others[0].join(30)
    put_metric("point", 1)
    put_metric("of-the-group", 1, "group")
    assert elastic_events.current_bus().close()
    assert seen == ["point", "of-the-group"] and len(others) == 1, (seen, others)
    """
    done = run(body, tmp_path)
    assert done.code == 0, done.stderr
