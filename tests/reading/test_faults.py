"""Of what a worker failed, where it said more than one thing of its end: what the script caught is no cause."""

from typing import Any

import pytest
from msgspec.structs import replace

from elastic_events.reading.builder import build
from elastic_events.reading.overview import summary
from tests.reading.runs import Run
from tests.reading.test_summary import shown


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


@pytest.mark.parametrize(("call", "told"), [("os._exit(7)", "os._exit(7)"), ("sys.exit(7)", None), ("os._exit(0)", "")])
def test_an_exit_of_which_no_agent_tells_the_code(call: str, told: str | None) -> None:
    """One of them nobody can catch: who is found dead behind it ended so."""
    run = Run()
    who = replace(run.worker(None), restart=None)
    run.steps(who, range(4), 1, 1)
    run.tell(6, who, "worker.exit", code=int(call[-2]), message=call)
    run.tell(7, who, "worker.died", pid=who.pid, host=who.host)
    (story,) = build(run.records)
    first = summary(story).attempts[0].first_failure
    if told == "":  # it was done
        assert first is None
        return
    assert first is not None
    assert first.message == told
    assert (told or "cause unknown") in shown(run)


@pytest.mark.parametrize(
    ("said", "trains", "told"),
    [
        ([(90, EXIT)], 80, EXIT),
        ([(20, EXIT)], 80, None),  # it went on: `sys.exit` was caught
        ([(90, THREAD), (95, EXIT)], 91, f"{THREAD}, then {EXIT}"),
        ([(90, THREAD)], 91, THREAD),
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


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"name": EXIT, "code": 3}, ("ValueError: inner", 24)),
        ({"name": RAISED, "type": "subprocess.CalledProcessError", "message": "exit 1"}, ("exit 1", 7)),
        ({"name": RAISED, "type": "a.ValueError", "message": "in full"}, ("ValueError: inner", 7)),
    ],
)
def test_message_and_place_are_of_one_thing(said: dict[str, Any], told: tuple[str, int]) -> None:
    """A torchrun that a rank ran leaves its own worker's error in the rank's error file: it has not the rank's place."""
    run = Run()
    run.start(0, run.agent(), 0, range(1))
    run.tell(5, run.worker(0), said.pop("name"), line=7, file="outer.py", **said)
    left = {"message": "ValueError: inner", "line": 24, "file": "inner.py"}
    run.failed(6, run.agent(), 0, 0, exit_code=3, pid=100, **left)
    (story,) = build(run.records)
    first = summary(story).attempts[0].first_failure
    assert first is not None
    assert ((first.message or "").removeprefix("subprocess.CalledProcessError: "), first.line) == told
