"""Programs killed at random instants, and what their collectors made of what they had recorded."""

import os

import pytest

from benchmarks.torture import torture_collected
from tests.collector.programs import Place, place

__all__ = ("place",)

#: Of each test; thousands by hand.
KILLS = int(os.environ.get("ELASTIC_EVENTS_KILLS", "10"))


@pytest.mark.slow
@pytest.mark.timeout(120 + 5 * KILLS)
def test_sigkill_loses_no_acknowledged_record(place: Place) -> None:
    """Killed at random instants, programs at full speed: all they acknowledged is delivered, once, or counted as lost."""
    found = torture_collected(place.folder, KILLS, collector_every=KILLS + 1)
    assert 0 < found.acknowledged <= found.delivered + found.lost
    assert (found.missing, found.excess, found.twice, found.corrupt) == (0, 0, 0, 0)
    assert found.deaths == KILLS


@pytest.mark.slow
@pytest.mark.timeout(120 + 5 * KILLS)
def test_sigkill_of_collectors_too(place: Place) -> None:
    """With every third program its collector is killed: nothing acknowledged is missing, nothing is there twice.

    What a collector had delivered and not noted when it was killed may be counted as lost by the next: too many, never too
    few.
    """
    found = torture_collected(place.folder, KILLS, collector_every=3)
    assert 0 < found.acknowledged <= found.delivered + found.lost
    assert (found.missing, found.twice, found.corrupt) == (0, 0, 0)
    # A collector notes what it took in one look when all of that is delivered: it may be several batches of each that was killed.
    assert found.excess <= (found.delivered + found.lost) // 20
    assert found.deaths == KILLS
