"""A program that launches a function by torch's `LaunchConfig`, with the handler named there."""

import os
from pathlib import Path

from tests.zoo.life import Me
from tests.zoo.play import Play, Said

#: A port of each round's own tells the attempts apart.
PORTS = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}

LAUNCH = """
from tests.zoo.kinds.launch_config import launch
if __name__ == "__main__":
    launch()
"""


def train() -> None:
    """What each rank does."""
    me = Me(Path(os.environ["ZOO_FOLDER"]))
    for number in range(5):
        with me.step(number):
            if number == 3 and me.rank == 1 and me.restart == 0:
                me.die("SIGKILL")
    me.tell("done")


def play(job: Play) -> Said:
    """Play it."""
    job.sources = [str(job.folder / "run.db")]
    assert job.program("-c", LAUNCH, ELASTIC_EVENTS_SINKS="sqlite:///run.db", **PORTS) == 0
    return Said("succeeded", ["failed", "succeeded"])


def launch() -> None:
    """Be the program."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    place = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "local_addr": "localhost"}
    config = LaunchConfig(
        1, 1, 2, run_id="zoo", max_restarts=1, monitor_interval=0.1, event_log_handler="elastic", **place
    )
    elastic_launch(config, train)()
