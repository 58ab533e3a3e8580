"""A child of rank 1 is killed, and rank 1 gives up because of it."""

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
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def work(me: Me) -> None:
    """What each rank does."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for number in range(5):
            with me.step(number):
                if number == 3 and me.rank == 1:
                    lost = pool.apply_async(load, (103,))
                    lost.wait(0.3)
                    me.die("exit code 1")
                pool.apply(load, (number,))


def play(job: Play) -> Said:
    """Play it."""
    assert job.torchrun() == 1
    return Said("failed", ["failed"])
