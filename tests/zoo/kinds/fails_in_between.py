"""Rank 1 is killed, the attempt behind it dies of rank 0 before its first step, the third succeeds."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    if me.restart == 1 and me.rank == 0:
        me.die("exit code 7")
    for number in range(6):
        with me.step(number):
            if number == 3 and me.rank == 1 and me.restart == 0:
                me.die("SIGKILL")


def play(job: Play) -> Said:
    """Play it."""
    assert job.torchrun("--max-restarts=2") == 0
    return Said("succeeded", ["failed", "failed", "succeeded"])
