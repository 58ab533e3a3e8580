"""A child that a thread made by `os.fork`: its main thread is that one, and no interpreter ends behind it."""

from pathlib import Path

import pytest

from tests.reliability.scripts import run


@pytest.mark.parametrize("end", ["return", "sys.exit(3)", "raise ValueError"])
@pytest.mark.parametrize("others", [0, 2])
def test_a_child_that_a_thread_forked_ends_with_that_and_delivers(end: str, others: int, tmp_path: Path) -> None:
    """It ended with its last thread before there was a bus, and does still: one by another, too. A drain's does not count."""
    body = f"""
    import threading

    elastic_events.start(File(), interval=60)
    emit(1, "parent")
    children = []

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

    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
    for _ in range(3000):
        pid, status = os.waitpid(children[0], os.WNOHANG)
        if pid: sys.exit(os.waitstatus_to_exitcode(status))
        time.sleep(0.01)
    os.kill(children[0], 9)
    sys.exit("it did not end")
    """
    done = run(body, tmp_path)
    assert done.code == 0, done.stderr
    assert done.values("child") == list(range(5))
    assert done.values("later") == list(range(others))
    assert done.values("parent") == [0]


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
        for _ in range(3000):
            if os.waitpid(children[0], os.WNOHANG)[0]: return
            time.sleep(0.01)
        os.kill(children[0], 9)
        sys.exit("it did not end")

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
