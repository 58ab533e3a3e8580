"""One of two nodes loses its power; the other goes on alone, and succeeds."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    me.fragile = True
    if me.world == 4:
        me.train(0, 2)
        me.tell("ready")
        me.train(2, 10_000)
    me.train(2, 8)


def play(job: Play) -> Said:
    """Play it."""
    job.hosts = {0: "east", 1: "west"}
    stays, vanishes = (job.agent("--max-restarts=3", nodes="1:2") for _ in range(2))
    job.until("ready", 4)
    vanishes.vanish()
    vanishes.wait()
    assert stays.wait() == 0
    return Said("succeeded", ["failed", "succeeded"], gone={1: "died"}, unchecked=frozenset({"lost", "victims"}))
