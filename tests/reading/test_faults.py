"""Of what a worker failed, where it said more than one thing of its end: what the script caught is no cause."""

import pytest

from elastic_events.reading.builder import build
from elastic_events.reading.overview import summary
from tests.reading.runs import Run


def message(*said: tuple[float, str], trains: float, code: int = 3) -> str | None:
    """What the first failure is told to be, of a worker that said this and whose last step ended at `trains`."""
    run = Run()
    run.start(0, run.agent(), 0, range(1))
    run.steps(run.worker(0), range(4), 1, (trains - 1) / 4)
    for at, name in said:
        run.tell(at, run.worker(0), name, code=3, message=name)
    run.failed(100, run.agent(), 0, 0, exit_code=code, pid=100)
    (story,) = build(run.records)
    first = summary(story).attempts[0].first_failure
    assert first is not None
    return first.message


EXIT, THREAD, RAISED = "worker.exit", "thread.exception", "worker.exception"


@pytest.mark.parametrize(
    ("said", "trains", "told"),
    [
        ([(90, EXIT)], 80, EXIT),
        ([(20, EXIT)], 80, None),  # it went on: `sys.exit` was caught
        ([(90, THREAD), (95, EXIT)], 91, THREAD),
        ([(20, THREAD), (95, EXIT)], 80, EXIT),  # it went on without that thread
        ([(20, THREAD)], 80, None),
        ([(20, THREAD), (30, EXIT), (95, RAISED)], 80, RAISED),
    ],
)
def test_what_the_script_survived_is_not_what_it_failed_of(
    said: list[tuple[float, str]], trains: float, told: str | None
) -> None:
    """Who trained on behind the exception of a thread, or a caught exit, failed of something else, or nobody knows of what."""
    assert message(*said, trains=trains) == told


def test_an_exit_of_another_code_was_caught() -> None:
    """What ended with another code than it called for ended otherwise."""
    assert message((90, EXIT), trains=80, code=4) is None
