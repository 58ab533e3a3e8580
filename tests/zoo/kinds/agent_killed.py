"""The agent is killed, and its workers go on without it to their end: nobody says what became of the job."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    me.train(0, 2)
    me.tell("ready")
    me.train(2, 12)


def play(job: Play) -> Said:
    """Play it."""
    agent = job.agent()
    job.until("ready", 2)
    agent.signal("SIGKILL")
    agent.wait()
    return Said("failed", ["unknown"], gone={0: "died"})
