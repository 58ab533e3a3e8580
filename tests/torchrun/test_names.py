"""Where the plug-in writes when nobody says."""

import socket

from elastic_events.torchrun.agent_recorder import default_sink, run_name


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
