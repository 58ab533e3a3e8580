"""Whatever is wrong with us, the job ends as it would have."""

import time
from pathlib import Path

import pytest

from tests.torchrun.jobs import HERE, needs_torch, run

pytestmark = needs_torch

DRIVER = str(HERE / "driver.py")


def driven(tmp_path: Path, plant: str, mode: str, *more: str, **env: str) -> tuple[int, str]:
    """Run a job with `plant` in place; return its exit code and output."""
    job = run(tmp_path, mode, *more, launcher=(DRIVER, plant), PYTHONPATH=str(HERE.parents[1]), **env)
    return job.code, job.output


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param("repair"),
        pytest.param("register", marks=pytest.mark.slow),
        pytest.param("begin"),
        pytest.param("job"),
        pytest.param("seen", marks=pytest.mark.slow),
        pytest.param("record", marks=pytest.mark.slow),
    ],
)
def test_a_crash_inside_the_plug_in_changes_nothing(fault: str, tmp_path: Path) -> None:
    """A job that fails, restarts and fails ends with torch's exit code, and the crash is said once."""
    code, output = driven(
        tmp_path, fault, "exit", "--max-restarts=1", flag=fault != "register", ELASTIC_EVENTS_TORCHRUN="1"
    )  # type: ignore[arg-type]
    assert code == 1
    assert "ChildFailedError" in output
    assert output.count("exitcode  : 3") == 1
    assert output.count("RuntimeError: planted") >= 1
    assert output.count("Traceback") == output.count(
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError"
    )


def test_a_job_that_succeeds_does_so_with_a_broken_plug_in(tmp_path: Path) -> None:
    """Exit code 0 stays 0 when every step of the repair raises."""
    assert driven(tmp_path, "repair", "ok")[0] == 0


@pytest.mark.parametrize("kind", ["raising", "unopenable"])
def test_a_sink_that_raises(kind: str, tmp_path: Path) -> None:
    """With a sink that fails the job runs on, and the other sink has all of it (with torch's handler it dies)."""
    sinks = "test:,sqlite:///job.db"
    job = run(
        *(tmp_path, "killed-once", "--max-restarts=1"),
        launcher=(DRIVER, f"sink:{kind}"),
        PYTHONPATH=str(HERE.parents[1]),
        ELASTIC_EVENTS_SINKS=sinks,
    )
    assert job.code == 0, job.output
    assert job.story()[-1] == "job.succeeded"


@pytest.mark.parametrize("sinks", ["bogus://x", "sqlite:////proc/none/run.db"])
def test_a_sink_that_cannot_be(sinks: str, tmp_path: Path) -> None:
    """A sink that is no sink is said in a sentence, and the job runs without."""
    job = run(tmp_path, "ok", ELASTIC_EVENTS_SINKS=sinks)
    assert job.code == 0
    assert "elastic_events: " in job.output
    assert "Traceback" not in job.output


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["slow", "blocking"])
def test_a_slow_sink_delays_nothing(kind: str, tmp_path: Path) -> None:
    """A sink that takes a second a record, in its task or blocking the drain's loop, delays neither detection nor exit.

    Torch's own handler of that slowness: detected after 6 s, exit 20 s later.
    """
    took = {}
    for sinks in ("jsonl:///job.jsonl", "test:" + (",sqlite:///job.db" if kind == "slow" else "")):
        job = run(
            *(tmp_path, "killed"),
            launcher=(DRIVER, f"sink:{kind}"),
            PYTHONPATH=str(HERE.parents[1]),
            ELASTIC_EVENTS_SINKS=sinks,
        )
        died = int((tmp_path / "died").read_text()) / 1e9
        took[sinks[:4]] = time.time() - died
        assert job.code == 1, job.output
    assert took["test"] < took["json"] + 0.5, took  # a write of one record takes a second
    assert "undelivered and stay in" in job.output  # for elastic-events recover
    if kind == "slow":
        assert job.story()[-1] == "job.failed"  # the sink beside it that keeps up has all of it
        first = job.events("worker.failed")[0]
        assert first.metadata["first"]
        assert first.time_ns / 1e9 - died < 1
