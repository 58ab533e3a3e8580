"""Rank 1 may not have more memory, by its resource limit, and raises."""

import resource

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    for number in range(5):
        with me.step(number):
            if number == 3 and me.rank == 1:
                resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.RLIM_INFINITY))
                me.dies("exit code 1")
                bytearray(1 << 31)


def play(job: Play) -> Said:
    """Play it."""
    assert job.torchrun() == 1
    return Said("failed", ["failed"])
