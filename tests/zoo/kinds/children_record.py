"""Each rank has two children, as a data loader has, which record."""

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

    return os.getpid()


def work(me: Me) -> None:
    """What each rank does."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for number in range(6):
            pool.map(load, range(4))
            with me.step(number):
                pass


def play(job: Play) -> Said:
    """Play it."""
    assert job.torchrun() == 0
    return Said("succeeded", ["succeeded"])
