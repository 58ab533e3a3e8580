"""The agent gets a SIGTERM, as from a batch system, and stops its workers; or they get one at the same time."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said

VARIANTS = ("agent", "all")


def work(me: Me) -> None:
    """What each rank does."""
    me.train(0, 2)
    me.tell("ready")
    me.train(2, 10_000)


def play(job: Play) -> Said:
    """Play it."""
    agent = job.agent()
    job.until("ready", 2)
    agent.signal("SIGTERM")
    if job.variant == "all":
        job.signal_workers("SIGTERM")
    assert agent.wait() != 0
    return Said("failed", ["stopped"], unchecked=frozenset({"lost"}))
