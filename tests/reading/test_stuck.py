"""Where ranks were that made no step any more."""

import io
from typing import Any

from rich.console import Console

from elastic_events.reading.builder import build
from elastic_events.reading.overview import summary
from elastic_events.reading.slow_terminal import slow_terminal
from elastic_events.reading.stragglers import slow
from elastic_events.reading.stuck import Stuck, places
from elastic_events.reading.summary_terminal import summary_terminal
from tests.reading.runs import Run


def hung(*, goes_on: bool = False) -> Run:
    """Three ranks; rank 1 loads for ever, the others wait for it."""
    run = Run()
    agent = run.agent()
    run.start(0, agent, 0, range(3))
    for rank, line in ((0, 9), (1, 4), (2, 9)):
        run.steps(run.worker(rank), range(5), 1, 0.5)
        where: dict[str, Any] = {"file": "/job/train.py", "line": line, "function": "load" if rank == 1 else "main"}
        run.tell(40, agent, "worker.stacks", rank=rank, local_rank=rank, attempt=0, idle_s=36.5, stack="...", **where)
        if goes_on:
            run.steps(run.worker(rank), range(5, 8), 50, 0.5)
    return run


def stuck(run: Run) -> list[Stuck]:
    """What is said of it."""
    (story,) = build(run.records)
    assert slow(story).stuck == summary(story).stuck
    return slow(story).stuck


def test_ranks_that_hang_are_told_with_their_lines() -> None:
    """One sentence for each place, with the ranks that were there: in `slow` and in `summary`."""
    run = hung()
    assert list(places(stuck(run))) == [
        "Ranks 0, 2 were at /job/train.py:9 in main in attempt 0, without a step for 36.5 s.",
        "Rank 1 was at /job/train.py:4 in load in attempt 0, without a step for 36.5 s.",
    ]
    (story,) = build(run.records)
    for drawn in (slow_terminal(slow(story)), summary_terminal(summary(story))):
        console = Console(file=io.StringIO(), width=200)
        console.print(drawn)
        assert "Rank 1 was at /job/train.py:4 in load" in console.file.getvalue()  # type: ignore[attr-defined]


def test_ranks_that_went_on_did_not_hang() -> None:
    """A pause that was only long is no hang: the stacks are records, and nothing is said of them."""
    assert stuck(hung(goes_on=True)) == []


def test_facts_of_a_wrong_type_are_not_given() -> None:
    """Whatever somebody recorded under that name, there is an answer."""
    run = Run()
    run.start(0, run.agent(), 0, range(1))
    run.tell(9, run.agent(), "worker.stacks", rank=0, attempt=0, idle_s="x", file=3, line="4", function=[], stack={})
    (one,) = stuck(run)
    assert (one.idle_s, one.file, one.line, one.function, one.stack) == (None, None, None, None, None)
    assert list(places([one])) == ["Rank 0 was nobody knows where in attempt 0."]
