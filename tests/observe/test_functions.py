"""Workers that are functions."""

import pickle
import sys
from pathlib import Path

import pytest

from elastic_events.observe.function import Observed
from tests.observe.jobs import HERE, line_of, needs_observer, summary
from tests.torchrun.jobs import TIMEOUT, environment, finish, looks_for_plugins


def test_a_function_that_is_observed_is_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its name, travels to its process, returns and raises what it did."""
    monkeypatch.delenv("ELASTIC_EVENTS_OBSERVE", raising=False)
    observed = pickle.loads(pickle.dumps(Observed(divmod)))
    assert (observed.__name__, observed(7, 2)) == ("divmod", (3, 1))
    with pytest.raises(ZeroDivisionError):
        observed(7, 0)


@needs_observer[0]
@needs_observer[1]
@looks_for_plugins
@pytest.mark.timeout(TIMEOUT)
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_worker_that_is_a_function(tmp_path: Path, method: str) -> None:
    """Its steps are its rank's, and its exception is told with the script's line, however its process begins."""
    env = environment(TMPDIR=str(tmp_path), PYTHONPATH=str(HERE.parents[1]))
    job = finish([sys.executable, str(HERE / "functions.py"), method], tmp_path, env)
    assert job.code == 1, job.output
    (attempt,) = summary(job)["attempts"]
    assert (attempt["first_step"], attempt["last_step"]) == (0, 11), job.output
    failure = attempt["first_failure"]
    assert (failure["rank"], failure["message"]) == (0, "ValueError: after the last step")
    assert (failure["file"], failure["line"]) == (
        str(HERE / "functions.py"),
        line_of(HERE / "functions.py", "function"),
    )
    assert not job.events("observe.off")
