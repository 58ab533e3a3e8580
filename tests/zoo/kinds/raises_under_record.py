"""Rank 1 raises under torch's decorator `record`, which writes down why."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    from torch.distributed.elastic.multiprocessing.errors import record

    @record
    def train() -> None:
        for number in range(5):
            with me.step(number):
                if number == 3 and me.rank == 1:
                    me.dies("exit code 1")
                    raise ValueError("the loss is no number")

    train()


def play(job: Play) -> Said:
    """Play it."""
    assert job.torchrun() == 1
    return Said("failed", ["failed"], exits_s=2)  # with torch, the interpreter has much to end
