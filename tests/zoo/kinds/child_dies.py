"""A child of rank 1 is killed, and rank 1 gives up because of it."""

import multiprocessing
import os
import signal

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def load(number: int) -> None:
    """What a worker of the data loader does."""
    import elastic_metrics

    elastic_metrics.put_metric("loaded", number)
    if number == 103:
        os.kill(os.getpid(), signal.SIGKILL)


def loaded(number: int) -> None:
    """Have a child load, and wait for its end."""
    child = multiprocessing.get_context("fork").Process(target=load, args=(number,))
    child.start()
    child.join()


def work(me: Me) -> None:
    """What each rank does."""
    for number in range(5):
        with me.step(number):
            loaded(number)
            if number == 3 and me.rank == 1:
                loaded(103)
                me.die("exit code 1")


def play(job: Play) -> Said:
    """Play it."""
    assert job.torchrun() == 1
    return Said("failed", ["failed"])
