"""One of two nodes loses its power, and both are wanted: the rendezvous times out at the end."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    me.fragile = True
    me.train(0, 2)
    me.tell("ready")
    me.train(2, 10_000)


def play(job: Play) -> Said:
    """Play it."""
    job.hosts = {0: "east", 1: "west"}
    conf = "join_timeout=8,last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=2"
    stays, vanishes = (job.agent("--max-restarts=3", conf=conf, nodes="2") for _ in range(2))
    job.until("ready", 4)
    vanishes.vanish()
    assert stays.wait() == 1
    return Said("failed", ["failed"], gone={1: "died"}, unchecked=frozenset({"lost", "victims"}))
