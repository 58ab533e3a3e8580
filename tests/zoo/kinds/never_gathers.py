"""Two nodes are wanted and one comes: the rendezvous times out at the start."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    me.train(0, 1)


def play(job: Play) -> Said:
    """Play it."""
    assert job.agent(conf="join_timeout=2", nodes="2").wait() == 1
    return Said("failed", [])
