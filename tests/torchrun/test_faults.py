"""Whatever is wrong with us, the job ends as it would have."""

import time
from pathlib import Path

import pytest

from tests.torchrun.jobs import HERE, TIMEOUT, needs_torch, run

pytestmark = [needs_torch, pytest.mark.timeout(2 * TIMEOUT)]

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
        pytest.param("link", marks=pytest.mark.slow),
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
    """With a sink that fails in the agent's own thread the job runs on, and the other sink has all (with torch's it dies)."""
    sinks = "test:,sqlite:///job.db"
    job = run(
        *(tmp_path, "killed-once", "--max-restarts=1"),
        launcher=(DRIVER, f"sink:{kind}"),
        PYTHONPATH=str(HERE.parents[1]),
        ELASTIC_EVENTS_SINKS=sinks,
    )
    assert job.code == 0, job.output
    assert job.story()[-1] == "job.succeeded"


@pytest.mark.parametrize("sinks", ["bogus://x", "sqlite:////proc/none/run.db", "sqlite:///run.db?dead_letters=x"])
def test_a_sink_that_cannot_be(sinks: str, tmp_path: Path) -> None:
    """A sink that is no sink is said in a sentence, and the job runs without."""
    job = run(tmp_path, "ok", ELASTIC_EVENTS_SINKS=sinks)
    assert job.code == 0
    assert "elastic_events: " in job.output
    assert ("this program's own" in job.output) == ("/proc/" in sinks)
    assert "Traceback" not in job.output


@pytest.mark.slow
def test_a_slow_sink_delays_no_detection(tmp_path: Path) -> None:
    """With a sink of a second a record in the agent's own thread, a death is detected as without, and the exit in its deadline.

    Torch's own handler of that slowness: detected after 6 s, exit 20 s later.
    """
    job = run(
        *(tmp_path, "killed"),
        launcher=(DRIVER, "sink:slow"),
        PYTHONPATH=str(HERE.parents[1]),
        ELASTIC_EVENTS_SINKS="test:,sqlite:///job.db",
        ELASTIC_EVENTS_TIMEOUT="2",
    )
    ended = time.time()
    died = int((tmp_path / "died").read_text()) / 1e9
    assert job.code == 1, job.output
    assert "undelivered" in job.output
    first = job.events("worker.failed")[0]  # the sink beside it has all of it
    assert first.metadata["first"]
    assert job.story()[-1] == "job.failed"
    assert first.metadata["died_ns"] / 1e9 - died < 2
    assert ended - died < 20
