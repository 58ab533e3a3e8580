"""Where the plug-in writes when nobody says."""

import socket

import pytest

from elastic_events.torchrun.agent_recorder import agent_context, default_sink, run_name


def test_the_default_database() -> None:
    """One file a run; one a host where there are several, for SQLite and network file systems do not agree."""
    assert default_sink("job", 1) == "sqlite:///elastic-events-job.db"
    assert default_sink("a/b ?#,%", 1) == "sqlite:///elastic-events-a_b_.db"
    assert default_sink("job", 2) == f"sqlite:///elastic-events-job-{socket.gethostname()}.db"


def test_a_run_without_a_name_gets_one() -> None:
    """Torchrun's "none" would make all runs one."""
    assert run_name("job") == "job"
    assert run_name("none") not in ("none", "")
    assert run_name(None) not in ("None", "")


def test_several_nodes_have_one_name(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Without an id it is that of Slurm's job and step; without these each node is told that it is a run of its own."""
    monkeypatch.setenv("SLURM_JOB_ID", "71")
    monkeypatch.setenv("SLURM_STEP_ID", "2")
    assert run_name("none", several=True) == "71.2"
    assert run_name("none") != "71.2"  # several jobs of one node each may be in a step
    monkeypatch.delenv("SLURM_JOB_ID")
    assert f"this node's run is {run_name('none', several=True)}" in capfd.readouterr().err


def test_a_job_within_a_job_is_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent that a rank starts is no node of that rank's job: it inherits the id, the rank and the attempt."""
    inherited = {"ELASTIC_EVENTS_RUN_ID": "job", "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}
    for name, value in inherited.items():
        monkeypatch.setenv(name, value)
    assert agent_context("evaluation", several=False).run_id == "job"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    context = agent_context("evaluation", several=False)
    assert (context.run_id, context.rank, context.restart) == ("job/evaluation", None, None)
