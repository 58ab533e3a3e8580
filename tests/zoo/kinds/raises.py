"""Rank 1 raises, without torch's decorator: it exits with 1, and nobody wrote down why."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    for number in range(5):
        with me.step(number):
            if number == 3 and me.rank == 1:
                me.dies("exit code 1")
                raise ValueError("the loss is no number")


def play(job: Play) -> Said:
    """Play it."""
    assert job.torchrun() == 1
    return Said("failed", ["failed"], exits_s=1)  # the interpreter ends, and writes down its last words
