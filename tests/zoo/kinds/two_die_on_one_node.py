"""Two ranks of one node die within 50 ms."""

import time

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    for number in range(3):
        with me.step(number):
            if number == 2:
                me.meet("to die")
                if me.rank == 0:
                    time.sleep(0.05)
                me.die("SIGKILL" if me.rank == 1 else "SIGABRT")


def play(job: Play) -> Said:
    """Play it."""
    assert job.torchrun() == 1
    return Said("failed", ["failed"], may=frozenset({"first"}))
