"""Three agents of one rank each; all goes well."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    me.train(0, 6)


def play(job: Play) -> Said:
    """Play it."""
    job.hosts = {0: "north", 1: "east", 2: "west"}
    agents = [job.agent(nodes="3", ranks=1) for _ in range(3)]
    assert [agent.wait() for agent in agents] == [0, 0, 0]
    return Said("succeeded", ["succeeded"])
