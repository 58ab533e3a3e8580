"""Rank 1 does not come to an all-reduce of gloo, in which rank 0 waits."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    import torch
    import torch.distributed

    torch.distributed.init_process_group("gloo")
    value = torch.ones(1)
    for number in range(20):
        with me.step(number, 0.02, alone=True):
            if number == 12 and me.rank == 1:
                me.stick()
            torch.distributed.all_reduce(value)


def play(job: Play) -> Said:
    """Play it."""
    agent = job.agent()
    job.outlast()
    agent.signal("SIGTERM")
    job.wait(0.5)
    job.kill_workers(0)  # a collective does not listen
    agent.wait()
    # Both are in the step: the marks do not tell which of them the other one waits for.
    return Said(
        "failed",
        ["stopped"],
        hangs=[({0, 1}, set(), "")],
        unchecked=frozenset({"lost", "victims"}),
    )
