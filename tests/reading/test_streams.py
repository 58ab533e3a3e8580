"""The captured torchrun streams, against answers worked out by hand."""

import pytest

from elastic_events.reading.buckets import goodput
from elastic_events.reading.builder import build
from elastic_events.reading.overview import summary
from elastic_events.reading.rows import timeline
from elastic_events.reading.story import Story
from elastic_events.reading.stragglers import slow
from tests.reading.answers import ANSWERS, Answer
from tests.streams import load

each = pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.streams[0])


def read(answer: Answer) -> tuple[Story, int]:
    """The story of an answer's streams, and the time of their first record."""
    records = [record for name in answer.streams for record in load(name)]
    (story,) = build(records)
    return story, min(record.time_ns for record in records)


def near(seconds: float) -> object:
    """What a time to the millisecond is equal to; START events are up to 7 ms before the last of them is recorded."""
    return pytest.approx(seconds, abs=0.008)


@each
def test_the_story(answer: Answer) -> None:
    """Attempts, ranks, outcomes, the first failure and its victims, and the times of each are those of the stream."""
    story, first = read(answer)
    assert (story.run_id, story.outcome, len(story.nodes)) == (answer.run_id, answer.job, answer.nodes)
    assert (story.restarts, story.membership_changes) == (answer.restarts, answer.membership_changes)
    assert story.wall_s == near(answer.wall)
    assert len(story.attempts) == len(answer.attempts)
    for found, wanted in zip(story.attempts, answer.attempts, strict=True):
        assert found.started_ns is not None
        assert (found.started_ns - first) / 1e9 == near(wanted.started)
        ended = None if found.ended_ns is None else (found.ended_ns - first) / 1e9
        assert ended is None if wanted.ended is None else ended == near(wanted.ended)
        assert [worker.rank for worker in found.workers] == wanted.ranks
        assert found.outcome == wanted.outcome
        times = sorted(((r.start_ns - first) / 1e9, (r.end_ns - first) / 1e9) for r in found.rendezvous)
        assert [(near(start), near(end)) for start, end in wanted.rendezvous] == times
        failure = found.first_failure
        if wanted.first is None:
            assert failure is None
            continue
        rank, cause, message = wanted.first
        assert failure is not None
        assert (failure.rank, failure.cause) == (rank, cause)
        assert (failure.message or "").startswith(message)
        assert tuple(worker.rank for worker in found.workers if worker.victim) == wanted.victims


@each
def test_the_readings(answer: Answer) -> None:
    """Summary, goodput, timeline and slow tell the same run, in their own words."""
    story, _ = read(answer)
    said = summary(story)
    assert [row.outcome for row in said.attempts] == [one.outcome for one in answer.attempts]
    assert said.ranks == max(len(one.ranks) for one in answer.attempts)
    buckets = {bucket.name: bucket.seconds for bucket in goodput(story).buckets if bucket.seconds}
    rest = buckets.pop("idle") + buckets.pop("unknown")  # no stream holds steps
    assert rest == near(answer.wall - sum(answer.goodput.values()))
    assert buckets == {name: near(seconds) for name, seconds in answer.goodput.items()}
    rows = timeline(story).rows
    assert sum(row.kind == "node" for row in rows) == answer.nodes
    assert sum(len(row.boxes) for row in rows if row.kind == "rank") == sum(len(one.ranks) for one in answer.attempts)
    assert slow(story).ranks == []


def test_the_late_joiner_waited() -> None:
    """The summary of the two agents' run names nobody else's wait: the late node waited longest, 2.1 s."""
    story, _ = read(next(one for one in ANSWERS if one.run_id == "run8"))
    waits = sorted(((r.end_ns - r.start_ns) / 1e9, r.node.pid) for a in story.attempts[1:] for r in a.rendezvous)
    assert waits[-1] == (pytest.approx(2.116, abs=0.001), 23584)
