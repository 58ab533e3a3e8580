"""An exception leaves a step; the script catches it and goes on. Much later rank 1 is killed."""

from contextlib import suppress

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    with suppress(ArithmeticError), me.step(0, alone=True):
        raise ArithmeticError
    for number in range(1, 20):
        with me.step(number):
            if number == 18 and me.rank == 1:
                me.die("SIGKILL")


def play(job: Play) -> Said:
    """Play it."""
    assert job.torchrun() == 1
    return Said("failed", ["failed"])
