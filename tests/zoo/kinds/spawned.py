"""`torch.multiprocessing.spawn`, without an agent: rank 1 is killed, and nobody says what became of the job."""

import os
from pathlib import Path

from tests.zoo.life import Me
from tests.zoo.play import Play, Said

LAUNCH = """
from torch.multiprocessing import spawn
from tests.zoo.kinds.spawned import train
if __name__ == "__main__":
    spawn(train, nprocs=2)
"""


def train(rank: int) -> None:
    """What each rank does."""
    import elastic_events

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    elastic_events.start("sqlite:///run.db")
    me = Me(Path(os.environ["ZOO_FOLDER"]))
    for number in range(5):
        with me.step(number):
            if number == 3 and me.rank == 1:
                me.die("SIGKILL")


def play(job: Play) -> Said:
    """Play it."""
    job.sources = [str(job.folder / "run.db")]
    assert job.program("-c", LAUNCH, ELASTIC_EVENTS_RUN_ID="zoo") == 1
    # Nobody tells of rank 0 that it was ended, nor in what order they were.
    return Said("unknown", ["unknown"], may=frozenset({"first"}), unchecked=frozenset({"lost", "victims", "words"}))
