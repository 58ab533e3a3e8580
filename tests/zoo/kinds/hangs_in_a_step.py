"""Rank 1 hangs within a step, of which rank 0 waits for the end."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    for number in range(20):
        with me.step(number, 0.02):
            if number == 12 and me.rank == 1:
                me.stick()


def play(job: Play) -> Said:
    """Play it."""
    agent = job.agent()
    job.outlast()
    agent.signal("SIGTERM")
    agent.wait()
    # Both are in the step: the marks do not tell which of them the other one waits for.
    return Said("failed", ["stopped"], hangs=[({0, 1}, set(), "")], unchecked=frozenset({"lost"}))
