"""The workers are a module: `torchrun -m`."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    me.train(0, 5)


def play(job: Play) -> Said:
    """Play it."""
    assert job.torchrun(script=("-m", "tests.zoo.worker", job.kind, str(job.folder))) == 0
    return Said("succeeded", ["succeeded"])
