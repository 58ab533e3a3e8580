"""A child that a thread made by `os.fork`: its main thread is that one, and no interpreter ends behind it."""

from pathlib import Path

import pytest

from tests.reliability.scripts import run


@pytest.mark.parametrize(
    ("start", "end"),
    [
        *(("threading.Thread(target=fork).start()", end) for end in ("return", "sys.exit(3)", "raise ValueError")),
        ("_thread.start_new_thread(fork, ())", "return"),
    ],
)
@pytest.mark.parametrize("others", [0, 2])
def test_a_child_that_a_thread_forked_ends_with_that_and_delivers(
    start: str, end: str, others: int, tmp_path: Path
) -> None:
    """It ended with its last thread before there was a bus, and does still: one by another, too. A drain's does not count."""
    body = f"""
    import _thread, threading

    elastic_events.start(File(), interval=60)
    emit(1, "parent")
    children = []
    forked = threading.Event()

    def later(others):
        time.sleep(0.3)
        if others: threading.Thread(target=later, args=(others - 1,)).start()
        else: emit(2, "later")

    def fork():
        children.append(os.fork())
        if not children[0]:
            emit(5, "child")
            if {others}: threading.Thread(target=later, args=({others - 1},)).start()
            {end}
        forked.set()

    {start}
    forked.wait(20)
    sys.exit(wait_for(children[0]))
    """
    done = run(body, tmp_path)
    assert done.code == 0, done.stderr
    assert done.values("child") == list(range(5))
    assert done.values("later") == list(range(others))
    assert done.values("parent") == [0]


@pytest.mark.parametrize(
    ("start", "used"),
    [
        ("threading.Thread(target=fork).start()", "before"),
        ("threading.Thread(target=fork).start()", "behind"),
        ("_thread.start_new_thread(fork, ())", "before"),
    ],
)
def test_a_child_ends_although_a_later_thread_has_the_ident_of_the_one_that_was_forked(
    start: str, used: str, tmp_path: Path
) -> None:
    """A system gives it again at once: a daemon's, that of a sink say, was taken for the main thread, for ever."""
    body = f"""
    import _thread, threading

    bus = elastic_events.start(File(), interval=60)
    children = []
    forked = threading.Event()

    def wait():
        while bus.stats().state != "closed": time.sleep(0.01)

    def behind():
        while main in sys._current_frames(): time.sleep(0.01)
        if {used == "behind"}: emit(5, "child")
        for _ in range(8): threading.Thread(target=wait, daemon=True).start()

    def fork():
        global main
        children.append(os.fork())
        if not children[0]:
            main = threading.get_ident()
            if {used == "before"}: emit(5, "child")
            threading.Thread(target=behind).start()
        forked.set()

    {start}
    forked.wait(20)
    sys.exit(wait_for(children[0]))
    """
    done = run(body, tmp_path, timeout=60)
    assert done.code == 0, done.stderr
    assert done.values("child") == list(range(5))


def test_a_child_that_a_thread_of_a_multiprocessing_child_forked_ends_too(tmp_path: Path) -> None:
    """The finalizers of `multiprocessing` run in its own child only."""
    body = """
    import multiprocessing, threading

    elastic_events.start(File(), interval=60)

    def fork():
        children.append(os.fork())
        if not children[0]: emit(5, "child")

    def work():
        emit(1, "worker")
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()
        wait_for(children[0])

    children = []
    worker = multiprocessing.get_context("fork").Process(target=work)
    worker.start()
    worker.join()
    sys.exit(worker.exitcode)
    """
    done = run(body, tmp_path)
    assert done.code == 0, done.stderr
    assert done.values("child") == list(range(5))
    assert done.values("worker") == [0]


#: What a program does whose main thread has another ident than when it began, as gevent gives it one that patches late.
ANOTHER_IDENT = """main = threading.main_thread()
    ident, main._ident = main.ident, 12345
    bus = elastic_events.start(File(), interval=60)
    for _ in range(20):
        time.sleep(0.01)
        emit(1)
    main._ident = ident"""


def test_a_bus_stays_open_where_the_main_thread_has_another_ident(tmp_path: Path) -> None:
    """As gevent gives it one that patches late: a program that nobody forked was taken for a thread's child, and closed."""
    body = f"""
    {ANOTHER_IDENT}
    sys.exit(bus.stats().state)
    """
    done = run(body, tmp_path)
    assert done.stderr.strip() == "open"
    assert len(done.values()) == 20


def test_a_bus_of_a_child_stays_open_where_its_main_thread_has_another_ident(tmp_path: Path) -> None:
    """As in a server's worker that is forked and then patched by gevent: all that it recorded was lost."""
    body = f"""
    child = os.fork()
    if child:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    {ANOTHER_IDENT}
    state = bus.stats().state
    elastic_events.stop(5)
    sys.stderr.write(state)
    os._exit(0)
    """
    done = run(body, tmp_path)
    assert done.stderr.strip() == "open"
    assert len(done.values()) == 20
