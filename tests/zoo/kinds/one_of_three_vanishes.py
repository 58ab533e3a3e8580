"""One of three nodes loses its power; two go on, and succeed."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    me.fragile = True
    if me.world == 3:
        me.train(0, 2)
        me.tell("ready")
        me.train(2, 10_000)
    me.train(2, 8)


def play(job: Play) -> Said:
    """Play it."""
    job.hosts = {0: "north", 1: "east", 2: "west"}
    agents = [job.agent("--max-restarts=3", nodes="2:3", ranks=1) for _ in range(3)]
    job.until("ready", 3)
    agents[2].vanish()
    assert [agent.wait() for agent in agents[:2]] == [0, 0]
    return Said("succeeded", ["failed", "succeeded"], gone={2: "died"}, unchecked=frozenset({"lost", "victims"}))
