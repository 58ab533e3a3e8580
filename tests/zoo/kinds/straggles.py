"""Rank 1 of three takes three times as long as the others for its own part of a step."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    for number in range(12):
        with me.step(number, 0.15 if me.rank == 1 else 0.05, alone=True):
            pass
        me.meet(f"behind {number}")


def play(job: Play) -> Said:
    """Play it."""
    assert job.torchrun(ranks=3) == 0
    return Said("succeeded", ["succeeded"], stragglers={1: "slow"})
