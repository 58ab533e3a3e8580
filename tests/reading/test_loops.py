"""Training loops with planted truth: every figure of goodput, and every verdict of slow, against what was planted."""

import pytest
from hypothesis import HealthCheck, given, settings

from elastic_events.reading.buckets import goodput
from elastic_events.reading.builder import build
from elastic_events.reading.stragglers import slow
from tests.reading.loops import TICK, Held, Loop, held, hold, loops, plant


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(loops())
def test_goodput_finds_what_was_planted(loop: Loop) -> None:
    """Each bucket, the steps that count, those done again and those cut off are those of the loop as it was made."""
    truth = plant(loop)
    (story,) = build(truth.run.records)
    found = goodput(story)
    assert sum(bucket.seconds for bucket in found.buckets) == pytest.approx(found.wall_s, rel=1e-9)
    for bucket in found.buckets:
        assert bucket.seconds == pytest.approx(truth.ticks[bucket.name] * TICK, abs=1e-3), bucket.name
    assert (found.steps, found.steps_redone, found.steps_cut) == (truth.steps, truth.redone, truth.cut)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(held())
def test_slow_finds_who_held_up_the_others(job: Held) -> None:
    """Those that were planted are the stragglers, of their kind, and nobody else; who hangs and who waits is told."""
    run, since = hold(job)
    (story,) = build(run.records)
    found = slow(story)
    assert {one.rank: one.straggler for one in found.ranks if one.straggler} == dict.fromkeys(job.stragglers, job.kind)
    if not job.missing:
        assert (found.hangs, found.quiet) == ([], [])
        return
    (hang,) = found.hangs
    assert set(hang.waiting) == set(range(job.ranks)) - job.missing
    place = "never left it" if job.within else "never began it"
    assert [(set(lag.ranks), lag.place) for lag in hang.behind] == [(job.missing, place)]
    assert hang.since_s == pytest.approx(since)
    assert hang.lasted_s == pytest.approx(600)
