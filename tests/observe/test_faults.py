"""A fault of the observer never reaches the job: each is planted on purpose."""

import subprocess
import sys
from pathlib import Path

import pytest

from elastic_events.observe import seam
from elastic_events.reading.source import read_records
from tests.observe.jobs import HERE, needs_observer
from tests.torchrun.jobs import TIMEOUT, environment

pytestmark = [*needs_observer, pytest.mark.timeout(TIMEOUT)]

#: What is planted -> the part that switches itself off.
PLANTS = {
    "fail:steps.before": "steps",
    "fail:steps.after": "steps",
    "fail:steps.fetched": "data",
    "fail:steps.exhausted": "data",
    "fail:saving._path": "checkpoints",
    "circle:saving._path": "checkpoints",
    "fail:last_words._caller": "errors",
    "fail:seam.grad_scaler": "steps",
    "fail:seam.batch_iterator": "data",
    "gone:torch.register_optimizer_step_post_hook": "steps",
}


def test_each_hook_that_fails_switches_itself_off(tmp_path: Path) -> None:
    """A hook that raises, calls itself, or misses what it needs of torch, is told once as an event, and the loop goes on."""
    done = subprocess.run(
        [sys.executable, str(HERE / "broken.py"), str(tmp_path), *PLANTS],
        env=environment(PYTHONPATH=str(HERE.parents[1])),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["5" if "last_words" in plant else "0" for plant in PLANTS], done.stderr
    for number, (plant, part) in enumerate(PLANTS.items()):
        folder = tmp_path / str(number)
        assert (folder / "steps").read_text() == "12"
        off = [record.fields[-1] for record in read_records(folder / "recorders") if record.name == "observe.off"]
        assert part in {one["part"] for one in off}, plant
        assert len(off) == len({one["part"] for one in off}), plant


def test_what_is_private_in_torch_is_where_we_look_for_it() -> None:
    """When this fails, torch has moved something: mend `observe/seam.py`."""
    import torch.distributed.c10d_logger
    import torch.distributed.checkpoint.logger

    assert callable(seam.batch_iterator().__next__)
    assert callable(seam.grad_scaler().step)
    assert torch.distributed.c10d_logger._c10d_logger.name in seam.COLLECTIVE_LOGGERS
    assert torch.distributed.checkpoint.logger._dcp_logger.name in seam.CHECKPOINT_LOGGERS
