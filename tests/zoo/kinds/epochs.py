"""Three epochs whose steps begin anew; rank 1 is killed in the last, which the second attempt does again."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    for epoch in range(0 if me.restart == 0 else 2, 3):
        for number in range(4):
            with me.step(number, epoch=epoch):
                if epoch == 2 and number == 2 and me.rank == 1 and me.restart == 0:
                    me.die("SIGKILL")


def play(job: Play) -> Said:
    """Play it."""
    assert job.torchrun("--max-restarts=1") == 0
    return Said("succeeded", ["failed", "succeeded"], unchecked=frozenset({"productive", "lost"}))
