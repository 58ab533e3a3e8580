"""Two runs side by side: what grew."""

from statistics import median

import msgspec

from elastic_events.reading.answer import Answer
from elastic_events.reading.buckets import ORDER, goodput
from elastic_events.reading.overview import summary
from elastic_events.reading.story import Story

__all__ = ("Diff", "Line", "diff")


class Line(msgspec.Struct, frozen=True):
    """One quantity of both runs; None where a run does not tell it."""

    name: str  #: of the quantity
    unit: str  #: s, 1 (a share), or empty for a count
    a: float | None  #: of the first run
    b: float | None  #: of the second run
    change: float | None  #: b - a
    ratio: float | None  #: b / a, where a is not 0


class Diff(Answer, frozen=True):
    """What `elastic-events diff --json` prints."""

    a: str  #: run id
    b: str  #: run id
    lines: list[Line]  #: figures first, then the phases
    grew_most: str  #: name of the phase of the wall time that grew by most seconds; empty if none grew
    version: int = 1  #: of this schema: another one only where a field goes, or means something else


def diff(a: Story, b: Story) -> Diff:
    """Compare two runs: outcome figures first, then the phases of the wall time."""
    before, after = _figures(a), _figures(b)
    lines = [_line(name, unit, before[name, unit], after[name, unit]) for name, unit in before]
    phases = {line.name: line.change for line in lines if line.name in _phases(a) and line.change}
    most = max(phases, key=lambda name: phases[name] or 0, default="")
    return Diff(a.run_id, b.run_id, lines, most if (phases.get(most) or 0) > 0 else "")


def _phases(story: Story) -> dict[str, float]:
    return {bucket.name: bucket.seconds for bucket in goodput(story).buckets}


def _figures(story: Story) -> dict[tuple[str, str], float | None]:
    good, said = goodput(story), summary(story)
    known = {bucket.name: bucket.seconds for bucket in good.buckets}
    rendezvous = [row.rendezvous_s for row in said.attempts if row.rendezvous_s is not None]
    restarts = [row.restart_to_step_s for row in said.attempts if row.restart_to_step_s is not None]
    return {
        ("wall time", "s"): good.wall_s,
        ("goodput (ETTR)", "1"): good.ettr,
        ("attempts", ""): len(said.attempts),
        ("restarts", ""): said.restarts,
        ("membership changes", ""): said.membership_changes,
        ("ranks", ""): said.ranks,
        ("steps", ""): good.steps,
        ("median step", "s"): good.step_s,
        ("median rendezvous", "s"): median(rendezvous) if rendezvous else None,
        ("median restart to first step", "s"): median(restarts) if restarts else None,
        **{(name, "s"): known.get(name) for name in ORDER},
    }


def _line(name: str, unit: str, a: float | None, b: float | None) -> Line:
    if a is None or b is None:
        return Line(name, unit, a, b, None, None)
    return Line(name, unit, a, b, b - a, b / a if a else None)
