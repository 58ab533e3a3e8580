"""However a process ends, what it recorded is delivered, or the documentation says that it is not."""

import textwrap
import time
from pathlib import Path

import pytest

from tests.reliability.scripts import run

ENDS = {
    "return": ("", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "exception": ("raise RuntimeError('training died')", 1),
    "interrupt": ("os.kill(os.getpid(), signal.SIGINT); time.sleep(9)", -2),
}


@pytest.mark.parametrize("end", ENDS)
def test_background_bus_is_drained_at_exit(end: str, tmp_path: Path) -> None:
    """On return, `sys.exit`, an exception and Ctrl-C every record is delivered, and the ledger last (promise 10, M3)."""
    code, expected = ENDS[end]
    done = run(f"elastic_events.start(File())\nemit(200)\n{code}", tmp_path)
    assert done.values() == list(range(200)), done.stderr
    assert done.kinds[-1] == "ledger"
    assert done.code == expected
    assert "elastic_events" not in done.stderr.replace("elastic_events.start", "")


def test_sigterm_with_the_opt_in_handler(tmp_path: Path) -> None:
    """`handle_sigterm=True` turns SIGTERM into an exit that drains; the status says what ended it (F50)."""
    done = run(
        "elastic_events.start(File(), handle_sigterm=True)\nemit(200)\nos.kill(os.getpid(), 15)\ntime.sleep(9)",
        tmp_path,
    )
    assert done.values() == list(range(200)), done.stderr
    assert done.code == 143


@pytest.mark.parametrize("place", ["filter", "coalesce", "handler", "key", "look"])
def test_sigterm_that_strikes_in_a_drain_ends_the_program(place: str, tmp_path: Path) -> None:
    """A signal's handler that raises within a function of a lane, in the program's own loop, ends the block, which delivers."""
    body = f"""
    import anyio

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    strikes = iter([True])

    def strike(*_):
        if next(strikes, False): os.kill(os.getpid(), signal.SIGTERM)
        return True

    class Strikes(File):
        async def write(self, records):
            strike()
            await super().write(records)

    async def one(record): pass

    class Clock:
        def __call__(self):
            strike()
            return time.time_ns()

    options = {{"filter": dict(where=strike), "coalesce": dict(coalesce=lambda record: strike() and record.id),
               "key": dict(concurrency=2, key=lambda record: strike() and record.id)}}

    async def main():
        clock = Clock() if {place!r} == "look" else time.time_ns
        async with EventBus(interval=0.01, wall_clock=clock) as bus:
            bus.subscribe(File(), name="well")
            sink = {{"handler": Strikes, "key": lambda: one}}.get({place!r}, ListSink)()
            lane = bus.subscribe(sink, name="struck", **options.get({place!r}, {{}}))
            emit(20)
            try:
                await anyio.sleep(30)
            finally:
                print("left", flush=True)
        print("not reached")

    from elastic_events.testing import ListSink
    try:
        anyio.run(main)
    finally:
        print("ended")
    """
    done = run(body, tmp_path)
    assert done.code == 143, done.stderr
    assert done.stdout == "left\nended\n"
    assert {*done.values()} == {*range(20)}
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_children_are_drained(method: str, tmp_path: Path) -> None:
    """A child of each start method delivers what it recorded before it ended (F10)."""
    body = f"""
    import multiprocessing
    def work():
        elastic_events.start(File())
        emit(200)

    if __name__ == "__main__":
        context = multiprocessing.get_context("{method}")
        child = context.Process(target=work)
        child.start()
        child.join()
        sys.exit(child.exitcode)
    """
    done = run(body, tmp_path)
    assert done.values() == list(range(200)), done.stderr
    assert done.code == 0


def test_sink_that_hangs_for_ever_does_not_hang_the_exit(tmp_path: Path) -> None:
    """The exit takes the deadline and a margin, not longer; the rest is counted (F18)."""
    body = """
    import anyio
    async def hang(record): await anyio.sleep_forever()
    bus = elastic_events.start(hang, timeout=0.3)
    emit(10)
    def show(): print(json.dumps(bus.stats().lanes["hang"].dropped))

    bus.flush_sync(0.05)
    real = bus.close
    began = time.monotonic()
    bus.close()
    print(time.monotonic() - began < 2.5)
    show()
    """
    done = run(body, tmp_path)
    assert done.code == 0, done.stderr
    assert done.stdout.splitlines() == ["True", '{"shutdown_deadline": 10}']


def test_handler_that_blocks_its_loop_does_not_hang_the_exit(tmp_path: Path) -> None:
    """Even a handler that never yields costs the exit the deadline and a margin only (F18, M4)."""
    began = time.monotonic()
    done = run(
        "async def block(record): time.sleep(3600)\nelastic_events.start(block, timeout=0.2)\nemit(10)", tmp_path
    )
    assert done.code == 0, done.stderr
    assert time.monotonic() - began < 20


def test_sink_in_the_final_drain_needs_no_executor(tmp_path: Path) -> None:
    """A sink that works in its own thread delivers at interpreter exit, where no thread can be started (F15, F16, M4)."""
    body = """
    from elastic_events.bus.sink_thread import SinkThread
    class Threaded(File):
        async def open(self): await super().open(); self.worker = SinkThread("sink")
        async def write(self, records): await self.worker.run(self.blocking, records)
        def blocking(self, records):
            try: super(Threaded, self).write(records).send(None)
            except StopIteration: pass
    elastic_events.start(Threaded(), interval=60)
    emit(200)
    """
    done = run(body, tmp_path)
    assert done.values() == list(range(200)), done.stderr


def test_os_exit_loses_what_was_not_flushed(tmp_path: Path) -> None:
    """`os._exit` skips every hook: what `flush_sync` delivered is there, and nothing else is promised (F11)."""
    done = run(
        "bus = elastic_events.start(File(), interval=60)\nemit(100)\nassert bus.flush_sync()\nemit(100, 'late')\nos._exit(0)",
        tmp_path,
    )
    assert done.values() == list(range(100)), done.stderr
    assert done.values("late") == []


def test_print_loop_at_exit(tmp_path: Path) -> None:
    """A console that is written to until the last moment does not abort the exit (F19)."""
    body = """
    def spam():
        while True: put_metric("spam", 1); time.sleep(0.0001)
    elastic_events.start("console:")
    threading.Thread(target=spam, daemon=True).start()
    time.sleep(0.05)
    """
    for _ in range(5):
        done = run(body, tmp_path)
        assert done.code == 0, done.stderr[-500:]
        assert "Fatal" not in done.stderr


def test_emitting_at_interpreter_shutdown(tmp_path: Path) -> None:
    """Emitting from atexit hooks, module teardown and finalizers is harmless (promise 2)."""
    body = """
    class Last:
        def __del__(self, record=record, put_metric=put_metric, Event=Event): put_metric("del", 1); record(Event("del", "WORKER"))
    keep = Last()
    sys.modules["keep"] = keep
    atexit.register(emit, 5, "early hook")
    elastic_events.start(File())
    atexit.register(emit, 5, "late hook")
    """
    done = run(body, tmp_path)
    assert done.code == 0
    assert done.stderr == ""
    assert done.values("late hook") == [0, 1, 2, 3, 4]


def test_two_asyncio_runs(tmp_path: Path) -> None:
    """A bus a run: what each recorded arrives, and what was recorded in between does no harm (F24, F26)."""
    body = """
    import asyncio
    async def main(n):
        async with EventBus(File()):
            emit(10, f"run{n}")
    asyncio.run(main(1))
    emit(10, "between")
    asyncio.run(main(2))
    """
    done = run(body, tmp_path)
    assert done.values("run1") == done.values("run2") == list(range(10)), done.stderr
    assert done.values("between") == []


def test_a_loop_that_ends_before_its_bus_is_left_closes_that(tmp_path: Path) -> None:
    """It stayed the one that records went to, and took them for nobody: the bus beneath has them now."""
    body = """
    import asyncio
    async def main():
        await EventBus(Nobody()).__aenter__()
        emit(3, "inside")
    class Nobody(File):
        async def write(self, records): pass
    elastic_events.start(File(), interval=60)
    asyncio.run(main())
    emit(5, "after")
    """
    done = run(body, tmp_path)
    assert done.values("after") == list(range(5)), done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_ctrl_c_in_an_event_loop_still_drains(backend: str, tmp_path: Path) -> None:
    """SIGINT ends the block by its usual exception, after what was recorded was delivered (F29, M5)."""
    body = f"""
    import anyio
    async def main():
        async with EventBus(File()):
            emit(200)
            os.kill(os.getpid(), signal.SIGINT)
            await anyio.sleep(9)
    anyio.run(main, backend="{backend}")
    """
    done = run(body, tmp_path)
    assert done.values() == list(range(200)), done.stderr
    assert done.kinds[-1] == "ledger"
    assert done.code in (1, -2, 130)


def test_ctrl_c_that_strikes_a_handler_ends_the_block(tmp_path: Path) -> None:
    """On trio, which may raise Ctrl-C in any task, it never strikes the drain: the caller gets it, the records are delivered."""
    body = """
    import anyio
    async def strike(one):
        if one.name == "first": os.kill(os.getpid(), signal.SIGINT)
    async def main():
        async with EventBus(strike, File()):
            emit(1, "first")
            emit(200)
            await anyio.sleep(9)
    anyio.run(main, backend="trio")
    """
    done = run(body, tmp_path)
    assert done.values() == list(range(200)), done.stderr
    assert "the drain ended by itself" not in done.stderr
    assert done.code in (1, -2, 130)


def test_import_has_no_effect(tmp_path: Path) -> None:
    """Importing the packages starts no thread, opens no file and loads no event loop's backend (F23)."""
    body = """
    heavy = [m for m in ("trio", "sqlite3", "torch", "rich", "click") if m in sys.modules]
    print(threading.active_count(), len(os.listdir("/proc/self/fd")) - FDS, heavy)
    """
    script = (
        "import os, sys, threading\nFDS = len(os.listdir('/proc/self/fd'))\nimport elastic_events, elastic_metrics\n"
        + textwrap.dedent(body)
    )
    done = run(f"import subprocess\nsys.exit(subprocess.run([sys.executable, '-c', {script!r}]).returncode)", tmp_path)
    assert done.stdout.split(" ", 2) == ["1", "0", "[]\n"], done.stderr


def test_unclosed_bus_warns(tmp_path: Path) -> None:
    """A bus that is dropped while it is open warns ResourceWarning."""
    body = """
    import asyncio, gc, warnings
    warnings.simplefilter("always")
    async def main():
        bus = EventBus()
        await bus.__aenter__()
        bus._closed = lambda: None
        elastic_events.front.front.buses.clear()
        bus.__del__()
        os._exit(0)
    asyncio.run(main())
    """
    done = run(body, tmp_path)
    assert "ResourceWarning: unclosed <EventBus open" in done.stderr
