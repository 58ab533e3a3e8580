"""Rank 1 hangs in a checkpoint; rank 0 has written its part, and waits in the next step."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    me.train(0, 12, 0.02)
    import elastic_events

    with elastic_events.checkpoint(11):
        me.tell("save")
        if me.rank == 1:
            me.stick()
        me.tell("saved")
    me.train(12, 20, 0.02)


def play(job: Play) -> Said:
    """Play it."""
    agent = job.agent()
    job.outlast()
    agent.signal("SIGTERM")
    agent.wait()
    return Said(
        "failed",
        ["stopped"],
        hangs=[({0}, {1}, "never left its checkpoint of step 11")],
        unchecked=frozenset({"lost", "checkpoint", "productive"}),
    )
