"""Rank 1 of the first node is killed; those of the second break 60 ms later, since their peer is gone.

That ends the job, or both nodes start again; or they do, and the clock of the second is a minute ahead.
"""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said

VARIANTS = ("for_good", "once", "clocks_apart")


def work(me: Me) -> None:
    """What each rank does."""
    me.fragile = me.node == 1
    for number in range(5):
        with me.step(number):
            if number == 3 and me.node == 0 and me.local == 1 and (me.variant == "for_good" or me.once("death")):
                me.die("SIGKILL")


def play(job: Play) -> Said:
    """Play it."""
    job.hosts = {0: "east", 1: "west"}
    if job.variant == "for_good":
        agents = [job.agent(nodes="2") for _ in range(2)]
        assert [agent.wait() for agent in agents] == [1, 1]
        return Said("failed", ["failed"])
    agents = [job.agent("--max-restarts=2", nodes="2") for _ in range(2)]
    assert [agent.wait() for agent in agents] == [0, 0]
    said = Said("succeeded", ["failed", "succeeded"])
    if job.variant == "clocks_apart":
        job.ahead = {1: 60}
        # The rendezvous tell the clocks within a second, which is more than anything here lasts.
        said.may = frozenset({"first"})
        said.unchecked = frozenset({"productive", "lost", "checkpoint", "steps", "words"})
    return said
