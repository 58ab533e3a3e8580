"""A child that a thread made by `os.fork`: its main thread is that one, and no interpreter ends behind it."""

from pathlib import Path

import pytest

from tests.reliability.scripts import run


@pytest.mark.parametrize("end", ["return", "sys.exit(3)", "raise ValueError"])
@pytest.mark.parametrize("other", [False, True])
def test_a_child_that_a_thread_forked_ends_with_that_and_delivers(end: str, other: bool, tmp_path: Path) -> None:
    """It ended with its last thread before there was a bus, and does still; that of a drain does not count."""
    body = f"""
    import threading

    elastic_events.start(File(), interval=60)
    emit(1, "parent")
    children = []

    def later():
        time.sleep(0.5)
        emit(2, "later")

    def fork():
        children.append(os.fork())
        if not children[0]:
            emit(5, "child")
            if {other}: threading.Thread(target=later).start()
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
    assert done.values("later") == list(range(2 * other))
    assert done.values("parent") == [0]
