"""Two sinks have all records; both are read, and one of them twice."""

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
    job.sources = [job.sources[0], str(job.folder / "run.jsonl"), job.sources[0]]
    return Said("succeeded", ["failed", "succeeded"])
