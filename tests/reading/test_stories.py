"""Generated stories with planted truth: what is told is true, whatever the records have suffered; or it is unknown."""

import os
from itertools import chain, zip_longest

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from msgspec.structs import replace

from elastic_events.reading.builder import build
from elastic_events.reading.overview import summary
from elastic_events.reading.rows import timeline
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


@given(jobs().filter(lambda job: job.harm in ("none", "twice", "order", "sinks")))
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
            # Where a clock was set between a death and the word on it, it may not be known which was first.
            found = None if first is None else first.pid
            assert found == truth.first or (job.set and found is None)
            # Out of order nobody knows which clock was the first; and a death may have been seen by either.
            known = not job.set or (job.harm != "order" and first is not None and first.died_ns is not None)
            if known and first is not None and truth.died is not None and first.ended_ns is not None:
                assert (first.ended_ns - START) / 1e9 == pytest.approx(truth.died, abs=0.2)
    assert story.restarts == sum(one.outcome == "failed" for one in job.attempts[:-1])


calm = jobs().filter(lambda job: not job.set)  # else they would not agree on the clock of a host that they share


@given(calm, calm)
@settings(many, max_examples=max(1, many.max_examples // 4))
def test_two_jobs_in_one_stream_are_told_as_each_alone(one: Job, other: Job) -> None:
    """Records of two runs, mixed, on the same hosts, with the same pids: neither changes what is told of the other."""
    second = [replace(record, context=replace(record.context, run_id="second")) for record in other.records]
    alone = [answer(story) for records in (one.records, second) for story in build(records)]
    mixed = list(chain.from_iterable(zip_longest(one.records, second)))
    assert sorted(map(answer, build(record for record in mixed if record is not None))) == sorted(alone)


def answer(story: Story) -> bytes:
    """What is told of a run."""
    return msgspec.json.encode((summary(story), timeline(story)))
