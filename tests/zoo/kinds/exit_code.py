"""Rank 1 exits with 3."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    for number in range(5):
        with me.step(number):
            if number == 3 and me.rank == 1:
                me.die("exit code 3")


def play(job: Play) -> Said:
    """Play it."""
    assert job.torchrun() == 1
    return Said("failed", ["failed"])
