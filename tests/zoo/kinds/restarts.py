"""Rank 1 is killed once; the second attempt goes on from the checkpoint, does a step again, and succeeds."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    first = 0 if me.restart == 0 else 3
    for number in range(first, 8):
        with me.step(number):
            if number == 4 and me.rank == 1 and me.restart == 0:
                me.die("SIGKILL")
        if number == 2:
            with me.checkpoint(2):
                pass


def play(job: Play) -> Said:
    """Play it."""
    assert job.torchrun("--max-restarts=1") == 0
    return Said("succeeded", ["failed", "succeeded"])
