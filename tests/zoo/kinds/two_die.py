"""Two ranks of two nodes die within 100 ms, that of node 0 first, or that of node 1."""

import time

from tests.zoo.life import Me
from tests.zoo.play import Play, Said

VARIANTS = ("0", "1")


def work(me: Me) -> None:
    """What each rank does."""
    first = me.node == int(me.variant)
    for number in range(3):
        with me.step(number):
            if number == 2:
                me.meet("to die")
                if not first:
                    time.sleep(0.09)
                me.die("SIGKILL" if first else "SIGABRT")


def play(job: Play) -> Said:
    """Play it."""
    job.hosts = {0: "east", 1: "west"}
    agents = [job.agent(nodes="2", ranks=1) for _ in range(2)]
    assert [agent.wait() for agent in agents] == [1, 1]
    return Said("failed", ["failed"], may=frozenset({"first"}))
