"""Two agents on one host, which their names have to tell apart."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    me.train(0, 6)


def play(job: Play) -> Said:
    """Play it."""
    agents = [job.agent(nodes="2") for _ in range(2)]
    assert [agent.wait() for agent in agents] == [0, 0]
    return Said("succeeded", ["succeeded"])
