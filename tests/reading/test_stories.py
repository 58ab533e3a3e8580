"""Generated stories with planted truth: what is told is true, whatever the records have suffered; or it is unknown."""

import os

import pytest
from hypothesis import HealthCheck, given, settings

from elastic_events.reading.builder import build
from elastic_events.reading.story import Attempt, Story
from tests.reading.runs import START
from tests.reading.stories import Job, Lived, jobs

#: ELASTIC_EVENTS_STORIES asks for more of them.
many = settings(
    max_examples=int(os.environ.get("ELASTIC_EVENTS_STORIES", "120")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def lived(job: Job, attempt: Attempt) -> list[Lived]:
    """The attempts whose workers stand in one that was told: one, unless two were taken for one."""
    pids = {worker.pid for worker in attempt.workers}
    return [one for one in job.attempts if one.pids & pids]


def told(job: Job) -> Story | None:
    """The story of the job's records; None where not one is left."""
    stories = build(job.records)
    assert len(stories) <= 1
    return stories[0] if stories else None


@given(jobs())
@many
def test_nothing_that_is_left_out_makes_an_answer_wrong(job: Job) -> None:
    """Outcome, attempts with their world sizes and outcomes, first failures and nodes that went: true, or unknown."""
    story = told(job)
    if story is None:
        return
    assert story.outcome in (job.outcome, "unknown")
    for attempt in story.attempts:
        found = lived(job, attempt)
        assert len(found) <= 1
        for truth in found:
            assert attempt.world_size in (truth.world, None)
            assert len({w.rank for w in attempt.workers if w.rank is not None}) <= truth.world
            assert attempt.outcome in (truth.outcome, "unknown")
            first = attempt.first_failure
            assert first is None or first.pid in (truth.first, None)
            if job.harm != "cut":
                assert {node.host for node in attempt.gone if node.gone == "left"} <= truth.gone
    if not job.skewed:
        known = [id(one) for attempt in story.attempts for one in lived(job, attempt)]
        assert len(set(known)) == len(known)


@given(jobs().filter(lambda job: job.harm in ("none", "twice", "order")))
@many
def test_what_was_recorded_is_told(job: Job) -> None:
    """With all records, in whatever order and however often, nothing is unknown that they hold."""
    story = told(job)
    assert story is not None
    assert story.outcome == job.outcome
    assert [attempt.world_size for attempt in story.attempts] == [one.world for one in job.attempts]
    assert [attempt.outcome for attempt in story.attempts] == [one.outcome for one in job.attempts]
    for attempt, truth in zip(story.attempts, job.attempts, strict=True):
        assert {node.host for node in attempt.gone} == truth.gone
        first = attempt.first_failure
        if not job.skewed:
            assert (first.pid if first is not None else None) == truth.first
            if first is not None and truth.died is not None and first.ended_ns is not None:
                assert (first.ended_ns - START) / 1e9 == pytest.approx(truth.died, abs=0.2)
    assert story.restarts == sum(one.outcome == "failed" for one in job.attempts[:-1])
