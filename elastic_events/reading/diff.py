"""Two runs side by side: what grew."""

from statistics import median

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from elastic_events.reading.goodput import ORDER, goodput
from elastic_events.reading.shown import shown
from elastic_events.reading.story import Story
from elastic_events.reading.summary import summary
from elastic_events.reading.words import seconds

__all__ = ("Diff", "Line", "diff", "diff_terminal")


class Line(msgspec.Struct, frozen=True):
    """One quantity of both runs; None where a run does not tell it."""

    name: str  #: of the quantity
    unit: str  #: s, 1 (a share), or empty for a count
    a: float | None  #: of the first run
    b: float | None  #: of the second run
    change: float | None  #: b - a
    ratio: float | None  #: b / a, where a is not 0


class Diff(msgspec.Struct, frozen=True):
    """What `elastic-events diff --json` prints."""

    a: str  #: run id
    b: str  #: run id
    lines: list[Line]  #: figures first, then the phases
    grew_most: str  #: name of the phase of the wall time that grew by most seconds; empty if none grew


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


def diff_terminal(answer: Diff) -> RenderableType:
    """Draw the comparison for a terminal; the phase that grew most is marked."""
    answer = shown(answer)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("")
    for column in (f"A: {answer.a}", f"B: {answer.b}", "change"):
        table.add_column(Text(column), justify="right")
    for line in answer.lines:
        marked = line.name == answer.grew_most
        change = "" if line.change is None else _shown(line.change, line.unit, sign=True)
        if line.ratio is not None and line.change and line.unit != "1":
            change += f" ({line.ratio - 1:+.0%})"
        label = Text(f"{line.name}  ◀ grew most" if marked else line.name, style="bold red" if marked else "")
        table.add_row(label, _shown(line.a, line.unit), _shown(line.b, line.unit), change)
    return Group(table)


def _shown(value: float | None, unit: str, *, sign: bool = False) -> str:
    if value is None:
        return "not told"
    plus = "+" if sign and value > 0 else ""
    if unit == "s":
        return plus + (seconds(value) if value >= 0 else f"-{seconds(-value)}")
    if unit == "1":
        return f"{plus}{value * 100:.1f} %"
    return f"{plus}{value:,.0f}"
