"""One of two agents is killed and its workers with it, a moment later, by nobody's word; both nodes are wanted."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    me.train(0, 2)
    me.tell("ready")
    me.train(2, 10_000)


def play(job: Play) -> Said:
    """Play it."""
    job.hosts = {0: "east", 1: "west"}
    first, second = (job.agent(nodes="2", ranks=1) for _ in range(2))
    job.until("ready", 2)
    second.vanish()
    second.wait()
    job.wait(0.5)
    first.signal("SIGTERM")
    first.wait()
    return Said("failed", ["stopped"], gone={1: "died"}, unchecked=frozenset({"lost", "victims"}))
