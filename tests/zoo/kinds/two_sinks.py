"""Two sinks have all records: both are read, and one of them twice; or the disk of one is lost, and the other tells it all."""

from tests.zoo.life import Me
from tests.zoo.play import Play, Said

VARIANTS = ("read_twice", "one_lost")


def work(me: Me) -> None:
    """What each rank does."""
    for number in range(0 if me.restart == 0 else 3, 6):
        with me.step(number):
            if number == 4 and me.rank == 1 and me.restart == 0:
                me.die("SIGKILL")


def play(job: Play) -> Said:
    """Play it."""
    database, lines = job.folder / "node-0.db", job.folder / "run.jsonl"
    assert job.torchrun("--max-restarts=1", sinks=f"sqlite:///{database},jsonl:///{lines}") == 0
    job.settle()
    if job.variant == "one_lost":
        database.unlink()
        job.sources = [str(lines)]
    else:
        job.sources = [str(database), str(lines), str(database)]
    return Said("succeeded", ["failed", "succeeded"])
