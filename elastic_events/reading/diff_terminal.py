"""The comparison of two runs for a terminal."""

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from elastic_events.reading.compare import Diff
from elastic_events.reading.narrow import Fitted
from elastic_events.reading.shown import shown
from elastic_events.reading.words import seconds

__all__ = ("diff_terminal",)


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
    return Group(Fitted(table))


def _shown(value: float | None, unit: str, *, sign: bool = False) -> str:
    if value is None:
        return "not told"
    plus = "+" if sign and value > 0 else ""
    if unit == "s":
        return plus + (seconds(value) if value >= 0 else f"-{seconds(-value)}")
    if unit == "1":
        return f"{plus}{value:.1%}"
    return f"{plus}{value:,.0f}"
