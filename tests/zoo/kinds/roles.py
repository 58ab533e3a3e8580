"""Two agents, one of learners, one of actors."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    me.train(0, 4)


def play(job: Play) -> Said:
    """Play it."""
    job.hosts = {0: "east", 1: "west"}
    agents = [job.agent(f"--role={role}", nodes="2") for role in ("learner", "actor")]
    assert [agent.wait() for agent in agents] == [0, 0]
    return Said("succeeded", ["succeeded"])
