"""Each rank has children, as a data loader has, which record."""

import multiprocessing

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def load(number: int) -> None:
    """What a worker of the data loader does."""
    import elastic_metrics

    elastic_metrics.put_metric("loaded", number)


def loaded(number: int) -> None:
    """Have a child load, and wait for its end."""
    child = multiprocessing.get_context("fork").Process(target=load, args=(number,))
    child.start()
    child.join()


def work(me: Me) -> None:
    """What each rank does."""
    for number in range(6):
        loaded(number)
        with me.step(number):
            loaded(number)


def play(job: Play) -> Said:
    """Play it."""
    assert job.torchrun() == 0
    return Said("succeeded", ["succeeded"])
