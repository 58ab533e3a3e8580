"""There were two sinks, and the disk of one is lost: the other tells it all."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    for number in range(0 if me.restart == 0 else 3, 6):
        with me.step(number):
            if number == 4 and me.rank == 1 and me.restart == 0:
                me.die("SIGKILL")


def play(job: Play) -> Said:
    """Play it."""
    both = f"sqlite:///{job.folder}/node-0.db,jsonl:///{job.folder}/run.jsonl"
    assert job.torchrun("--max-restarts=1", sinks=both) == 0
    job.settle()
    (job.folder / "node-0.db").unlink()
    job.sources = [str(job.folder / "run.jsonl")]
    return Said("succeeded", ["failed", "succeeded"])
