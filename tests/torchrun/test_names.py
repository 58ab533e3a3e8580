"""Where the plug-in writes when nobody says."""

import socket

from elastic_events.torchrun.begin import _run
from elastic_events.torchrun.job import default_sink


def test_the_default_database() -> None:
    """One file a run; one a host where there are several, for SQLite and network file systems do not agree."""
    assert default_sink("job", 1) == "sqlite:///elastic-events-job.db"
    assert default_sink("a/b ?#,%", 1) == "sqlite:///elastic-events-a_b_.db"
    assert default_sink("job", 2) == f"sqlite:///elastic-events-job-{socket.gethostname()}.db"


def test_a_run_without_a_name_gets_one() -> None:
    """Torchrun's "none" would make all runs one."""
    assert _run("job") == "job"
    assert _run("none") not in ("none", "")
    assert _run(None) not in ("None", "")
