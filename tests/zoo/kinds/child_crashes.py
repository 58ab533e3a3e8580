"""A child of rank 1 crashes; the script goes on without it, and succeeds."""

import multiprocessing
import os
import signal

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def load(number: int) -> int:
    """What a worker of the data loader does."""
    import elastic_metrics

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    elastic_metrics.put_metric("loaded", number)
    if number == 103:
        os.kill(os.getpid(), signal.SIGSEGV)
    return os.getpid()


def work(me: Me) -> None:
    """What each rank does."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for number in range(5):
            with me.step(number):
                if number == 3 and me.rank == 1:
                    pool.apply_async(load, (103,)).wait(0.2)


def play(job: Play) -> Said:
    """Play it."""
    assert job.torchrun() == 0
    return Said("succeeded", ["succeeded"])
