"""A second node joins while the first trains alone; both go on."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    if me.world == 1:
        me.train(0, 2)
        me.tell("ready")
        me.train(2, 10_000)
    me.train(2, 8)


def play(job: Play) -> Said:
    """Play it."""
    job.hosts = {0: "east", 1: "west"}
    # With its usual patience: a node that hurries may take the other for dead, and go on alone.
    first = job.agent(conf="last_call_timeout=1", nodes="1:2", ranks=1)
    job.until("ready")
    second = job.agent(conf="last_call_timeout=1", nodes="1:2", ranks=1)
    assert [first.wait(), second.wait()] == [0, 0]
    return Said("succeeded", ["membership", "succeeded"], restarts=0, unchecked=frozenset({"lost", "victims"}))
