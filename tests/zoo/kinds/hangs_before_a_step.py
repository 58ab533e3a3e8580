"""Rank 1 hangs in its data loader; rank 0 waits for it in the next step."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    for number in range(20):
        if number == 12 and me.rank == 1:
            me.stick()
        with me.step(number, 0.02):
            pass


def play(job: Play) -> Said:
    """Play it."""
    agent = job.agent()
    job.outlast()
    agent.signal("SIGTERM")
    agent.wait()
    return Said("failed", ["stopped"], hangs=[({0}, {1}, "never began it")], unchecked=frozenset({"lost"}))
