"""Rank 1 of the first node is killed; those of the second break 60 ms later, since their peer is gone."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    me.fragile = me.node == 1
    for number in range(5):
        with me.step(number):
            if number == 3 and me.node == 0 and me.local == 1:
                me.die("SIGKILL")


def play(job: Play) -> Said:
    """Play it."""
    job.hosts = {0: "east", 1: "west"}
    agents = [job.agent(nodes="2") for _ in range(2)]
    assert [agent.wait() for agent in agents] == [1, 1]
    return Said("failed", ["failed"])
