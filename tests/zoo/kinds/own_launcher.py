"""A launcher of one's own, which tells no more than which rank of which attempt began and failed."""

import os
import subprocess
import sys

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    for number in range(5):
        with me.step(number):
            if number == 3 and me.rank == 1:
                me.die("SIGKILL")


def play(job: Play) -> Said:
    """Play it."""
    job.sources = [str(job.folder / "run.db")]
    assert job.program("-m", "tests.zoo.kinds.own_launcher", ELASTIC_EVENTS_RUN_ID="zoo") == 0
    return Said("failed", ["failed"])


def launch() -> None:
    """Launch, and tell."""
    import elastic_events

    def tell(name: str, **facts: object) -> None:
        elastic_events.record(elastic_events.Event(name, "AGENT", metadata=facts))

    elastic_events.start("sqlite:///run.db")
    tell("job.started")
    tell("attempt.started", attempt=0, world_size=2)
    ranks = []
    for rank in range(2):
        own = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_PORT": "1"}
        command = [sys.executable, "-m", "tests.zoo.worker", "own_launcher", os.environ["ZOO_FOLDER"]]
        ranks.append(subprocess.Popen(command, env={**os.environ, **own}))
        tell("worker.started", rank=rank, attempt=0)
    ranks[1].wait()
    tell("worker.failed", rank=1, attempt=0, signal="SIGKILL", first=True)
    ranks[0].terminate()
    ranks[0].wait()
    tell("worker.failed", rank=0, attempt=0, signal="SIGTERM", victim=True)
    tell("attempt.ended", attempt=0, outcome="failed")
    tell("job.failed", reason="rank 1 was killed")


if __name__ == "__main__":
    launch()
