"""A launcher whose workers are a function, which nobody has changed for an observer: `functions.py START_METHOD`."""

import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tests.observe import loops


def train(kind):
    getattr(loops, kind)()
    raise ValueError("after the last step")  # function


if __name__ == "__main__":
    config = LaunchConfig(
        *(1, 1, 1),
        run_id="job",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
        start_method=sys.argv[1],
        event_log_handler="elastic",
    )
    try:
        elastic_launch(config, train)("plain")
    except ChildFailedError as error:
        sys.exit(str(error))
