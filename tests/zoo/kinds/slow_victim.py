"""Rank 1 is killed; rank 0 takes 1.5 seconds to end when it is told to."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    me.lingers = 1.5 if me.rank == 0 else 0
    for number in range(5):
        with me.step(number):
            if number == 3 and me.rank == 1:
                me.die("SIGKILL")


def play(job: Play) -> Said:
    """Play it."""
    assert job.torchrun() == 1
    return Said("failed", ["failed"])
