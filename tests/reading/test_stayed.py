"""A static rendezvous in which one node restarts while the other waits for it."""

import pytest

from elastic_events.reading.buckets import goodput
from elastic_events.reading.overview import summary
from tests.reading.runs import START, Run
from tests.reading.test_causes import told

SIZES = {"world_size": 2, "group_world_size": 2}


def life(run: Run, rank: int, own: int, begin: float, end: float, outcome: str, steps: range | None = None) -> None:
    """Record one attempt of a node, as its agent and its worker tell it; `steps` are made in its last seconds."""
    agent = run.agent("ab"[rank], 10)
    who = run.worker(rank, own, "ab"[rank], pid=100 + rank + 10 * own)
    run.tell(begin, agent, "attempt.started", attempt=own, round=None, group_rank=rank, **SIZES)
    run.tell(begin, agent, "worker.started", attempt=own, rank=rank, local_rank=0, pid=who.pid)
    if steps:
        run.steps(who, steps, end - len(steps) - 1, 1)
    if outcome == "failed":
        seen = {"died_ns": START + round((end - 0.1) * 1e9), "alive_ns": START + round((end - 0.2) * 1e9)}
        run.failed(end, agent, own, rank, local_rank=0, exit_code=1, pid=who.pid, **seen)
    else:
        run.tell(end, agent, "worker.succeeded", attempt=own, rank=rank, local_rank=0, pid=who.pid)
    run.tell(end, agent, "attempt.ended", attempt=own, outcome=outcome)


def job(run: Run, outcome: str, *restarts: int) -> None:
    """Record the begin and the end of both agents."""
    for rank, restarted in enumerate(restarts):
        run.tell(0, run.agent("ab"[rank], 10), "job.started")
        run.tell(99, run.agent("ab"[rank], 10), f"job.{outcome}", restarts=restarted, reason="workers failed")


@pytest.mark.parametrize("failures", [1, 3])
def test_a_node_waits_for_one_that_fails_before_it_trains(failures: int) -> None:
    """What the first node did it did in the last attempt: none of it was done again, and both are told."""
    run = Run()
    job(run, "succeeded", 0, failures)
    life(run, 0, 0, 1, 90, "succeeded", range(5))
    for own in range(failures):
        life(run, 1, own, 1 + 10 * own, 10 + 10 * own, "failed")
    life(run, 1, failures, 1 + 10 * failures, 90, "succeeded", range(5))
    story = told(run)
    answer, found = summary(story), goodput(story)
    assert (answer.outcome, answer.nodes_unread, answer.restarts) == ("succeeded", 0, failures)
    assert [attempt.outcome for attempt in answer.attempts] == ["failed"] * failures + ["succeeded"]
    assert {attempt.first_failure.rank for attempt in answer.attempts if attempt.first_failure} == {1}
    assert all(attempt.first_failure for attempt in answer.attempts[:-1])
    assert (found.steps, found.steps_redone) == (5, 0)
    assert [len(attempt.nodes) for attempt in story.attempts] == [2] * (failures + 1)


def test_the_numbers_of_two_nodes_run_apart() -> None:
    """One restarted alone before the training; when both fail, what is the second life of one is the third of the other."""
    run = Run()
    job(run, "succeeded", 1, 2)
    life(run, 0, 0, 1, 40, "failed", range(5))
    life(run, 1, 0, 1, 10, "failed")
    life(run, 1, 1, 11, 39.5, "failed", range(5))
    life(run, 1, 2, 41, 90, "succeeded", range(3, 9))
    life(run, 0, 1, 42, 90, "succeeded", range(3, 9))
    story = told(run)
    pids = [sorted(worker.pid or 0 for worker in attempt.workers) for attempt in story.attempts]
    assert pids == [[101], [100, 111], [110, 121]]
    assert (goodput(story).steps, goodput(story).steps_redone) == (9, 2)


@pytest.mark.parametrize("how", ["trains alone", "is gone"])
def test_who_did_not_wait_is_in_no_later_attempt(how: str) -> None:
    """A node that made steps meanwhile, or of which nothing was heard any more, is not taken for one that waited."""
    run = Run()
    run.tell(0, run.agent("a", 10), "job.started")
    if how == "trains alone":
        life(run, 0, 0, 1, 90, "succeeded", range(85))
    else:
        run.tell(1, run.agent("a", 10), "attempt.started", attempt=0, round=None, group_rank=0, **SIZES)
    life(run, 1, 0, 1, 10, "failed")
    life(run, 1, 1, 11, 90, "succeeded", range(5))
    run.tell(91, run.agent("b", 10), "job.succeeded", restarts=1)
    story = told(run)
    assert [len(attempt.nodes) for attempt in story.attempts] == [2, 1]
    assert summary(story).outcome == "unknown"
