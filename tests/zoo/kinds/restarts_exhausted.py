"""Rank 1 exits with 3 in each of three attempts, until no restart is left."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    for number in range(2):
        with me.step(number):
            if number == 1 and me.rank == 1:
                me.die("exit code 3")


def play(job: Play) -> Said:
    """Play it."""
    assert job.torchrun("--max-restarts=2") == 1
    return Said("failed", ["failed", "failed", "failed"])
