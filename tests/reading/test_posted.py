"""torchelastic's events as people posted them, of torch 1.9: the fields are those of pytorch/pytorch issues 60716 and 64990."""

import json
from typing import Any

from elastic_events.reading.buckets import goodput
from elastic_events.reading.builder import build
from elastic_events.reading.overview import Summary, summary
from tests.reading.runs import Run
from tests.records import changed

HOSTS = ("a", "b")


def post(run: Run, at: float, group: int, state: str, rank: int | None = None, **more: Any) -> None:
    """Record what torch's agent of a node said: no start of a worker, no exit code."""
    packed: dict[str, Any] = {"group_world_size": 2, "entry_point": "python3"}
    if rank is not None:
        packed |= {"local_rank": [0], "role_rank": [rank], "role_world_size": [2]}
    facts = {
        "run_id": "1234",
        "global_rank": rank,
        "group_rank": group,
        "role": "default",
        "hostname": HOSTS[group],
        "worker_id": None if rank is None else str(28454 + rank),
        "state": state,
        "total_run_time": 43,
        "rdzv_backend": "c10d",
        "raw_error": None,
        "metadata": json.dumps(packed),
        "agent_restarts": 3,
        **more,
    }
    run.raw(at, run.agent(HOSTS[group]), f"torchelastic.worker.status.{state}", facts)
    if rank is not None:
        run.records[-1] = changed(run.records[-1], fields=("WORKER", 0, facts))


def told(run: Run) -> Summary:
    """The summary of a run, which is one story."""
    (story,) = build(run.records)
    assert goodput(story).ettr is None
    return summary(story)


def test_workers_that_failed() -> None:
    """The agents' SUCCEEDED is no success of the job; who failed first, and with what, nobody wrote down."""
    run = Run("1234")
    for group in range(2):
        post(run, 40, group, "FAILED", group, raw_error='{"message": "<NONE>"}')
        post(run, 40.1, group, "SUCCEEDED")
    answer = told(run)
    assert answer.outcome == "failed"
    (attempt,) = answer.attempts
    assert attempt.outcome == "failed"
    assert attempt.first_failure is None
    assert {suspect.rank for suspect in attempt.suspects} == {0, 1}
    for suspect in attempt.suspects:
        assert (suspect.exit_code, suspect.signal, suspect.message) == (None, None, None)
    assert answer.restarts is None
    assert answer.last_steps == []


def test_workers_that_succeeded() -> None:
    """A job of which only the ends were posted has its outcome, and no time that nobody told."""
    run = Run("1234")
    for group in range(2):
        post(run, 40, group, "SUCCEEDED", group)
        post(run, 40.1, group, "SUCCEEDED")
    answer = told(run)
    assert answer.outcome == "succeeded"
    assert [row.outcome for row in answer.attempts] == ["succeeded"]
    assert answer.attempts[0].first_failure is None
    assert answer.unparsed == 0
