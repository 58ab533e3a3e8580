"""One agent, two ranks, six steps and a checkpoint; all goes well."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    me.train(0, 3)
    with me.checkpoint(2):
        pass
    me.train(3, 6)


def play(job: Play) -> Said:
    """Play it."""
    assert job.torchrun() == 0
    return Said("succeeded", ["succeeded"])
