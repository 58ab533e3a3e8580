"""A child of rank 1 crashes, and the script goes on without it; or it is killed, and rank 1 gives up because of it."""

import multiprocessing
import os
import signal

from tests.zoo.life import Me
from tests.zoo.play import Play, Said

VARIANTS = ("crashes", "killed")


def load(number: int, ends: signal.Signals | None) -> None:
    """What a worker of the data loader does."""
    import elastic_metrics

    elastic_metrics.put_metric("loaded", number)
    if ends is not None:
        os.kill(os.getpid(), ends)


def loaded(number: int, ends: signal.Signals | None = None) -> None:
    """Have a child load, and wait for its end."""
    child = multiprocessing.get_context("fork").Process(target=load, args=(number, ends))
    child.start()
    child.join()


def work(me: Me) -> None:
    """What each rank does."""
    crashes = me.variant == "crashes"
    for number in range(5):
        with me.step(number):
            loaded(number)
            if number == 3 and me.rank == 1:
                loaded(103, signal.SIGSEGV if crashes else signal.SIGKILL)
                if not crashes:
                    me.die("exit code 1")


def play(job: Play) -> Said:
    """Play it."""
    outcome = "succeeded" if job.variant == "crashes" else "failed"
    assert job.torchrun() == (outcome == "failed")
    return Said(outcome, [outcome])
