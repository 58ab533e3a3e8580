"""Rank 1 gets a SIGTERM from somebody who is not its agent."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    for number in range(5):
        with me.step(number):
            if number == 3 and me.rank == 1:
                me.die("SIGTERM")


def play(job: Play) -> Said:
    """Play it."""
    assert job.torchrun() == 1
    return Said("failed", ["failed"])
