"""The clock of the second node is a minute ahead; rank 1 of the first is killed once."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    me.fragile = me.node == 1
    for number in range(5):
        with me.step(number):
            if number == 3 and me.node == 0 and me.local == 1 and me.once("death"):
                me.die("SIGKILL")


def play(job: Play) -> Said:
    """Play it."""
    job.hosts = {0: "east", 1: "west"}
    job.ahead = {1: 60}
    agents = [job.agent("--max-restarts=2", nodes="2") for _ in range(2)]
    assert [agent.wait() for agent in agents] == [0, 0]
    # The rendezvous tell the clocks within a second, which is more than anything here lasts.
    return Said(
        "succeeded",
        ["failed", "succeeded"],
        may=frozenset({"first"}),
        unchecked=frozenset({"productive", "lost", "checkpoint", "steps", "words"}),
    )
