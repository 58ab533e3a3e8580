"""One of two nodes gets a SIGTERM, or loses its power; the other goes on alone, and succeeds."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said

VARIANTS = ("leaves", "vanishes")


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
    stays, goes = (job.agent("--max-restarts=3", nodes="1:2") for _ in range(2))
    job.until("ready", 4)
    if job.variant == "leaves":
        goes.signal("SIGTERM")
    else:
        goes.vanish()
    assert goes.wait() != 0
    assert stays.wait() == 0
    how, open_ = ("left", {"lost"}) if job.variant == "leaves" else ("died", {"lost", "victims"})
    return Said("succeeded", ["failed", "succeeded"], gone={1: how}, unchecked=frozenset(open_))
