"""Agent, workers and collector are killed at once; what their flight recorders hold is recovered by hand."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    me.train(0, 5)
    me.tell("ready")
    me.train(5, 10_000)


def play(job: Play) -> Said:
    """Play it."""
    agent = job.agent()
    job.until("ready", 2)
    job.kill_collectors(for_good=True)
    agent.vanish()
    agent.wait()
    job.recover()
    return Said("unknown", ["unknown"], unchecked=frozenset({"lost"}))
