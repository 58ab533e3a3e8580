"""Two agents of two ranks each; all goes well."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    me.train(0, 6)


def play(job: Play) -> Said:
    """Play it."""
    job.hosts = {0: "east", 1: "west"}
    agents = [job.agent(nodes="2") for _ in range(2)]
    assert [agent.wait() for agent in agents] == [0, 0]
    return Said("succeeded", ["succeeded"])
