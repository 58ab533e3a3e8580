"""The timeline in a terminal: a row a rank, a column a slice of time, letters that read without colour."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from elastic_events.reading.shown import shown
from elastic_events.reading.timeline import STATES, Row, Timeline, alike
from elastic_events.reading.words import counted, seconds

__all__ = ("nice_step", "timeline_terminal")

_ROWS = 40
_LABEL = 18

#: State -> its letter and its style.
_LOOK = {
    "rendezvous": ("r", "magenta"),
    "startup": ("s", "cyan"),
    "restore": ("o", "blue"),
    "running": ("━", "green"),
    "training": ("━", "green"),
    "lost": ("╌", "red"),
    "checkpoint": ("c", "bold blue"),
}
_MARKS = {"first": ("X", "bold white on red"), "failed": ("x", "bold red"), "victim": ("v", "red")}
_WORDS = {
    "r": "rendezvous",
    "s": "start-up",
    "o": "restore",
    "━": "training",
    "╌": "lost steps",
    "c": "checkpoint",
    "X": "first failure",
    "x": "failure",
    "v": "victim",
}


def timeline_terminal(answer: Timeline, width: int = 80) -> RenderableType:
    """Draw the timeline into `width` columns. Rows that look alike are one where there are many."""
    answer = shown(answer)
    columns = max(20, width - _LABEL - 1)
    slice_s = answer.wall_s / columns if answer.wall_s else 1.0
    rows: list[tuple[Row, int]] = [(row, 1) for row in answer.rows]
    if len(rows) > _ROWS:
        rows = [(row, len(group)) for row, group in alike([row for row, _ in rows], slice_s)]
    hidden = len(rows) - _ROWS
    lines = [_line(row, many, slice_s, columns) for row, many in rows[:_ROWS]]
    used = {char for line in lines for char in line.plain[_LABEL:]}
    legend = Text("  ".join(f"{letter} {word}" for letter, word in _WORDS.items() if letter in used), style="dim")
    failures = [Text(f"Attempt {band.attempt} failed: {band.cause}.") for band in answer.bands if band.cause][:5]
    more = [Text(f"{counted(hidden, 'more row')} that look different; --html shows all.")] if hidden > 0 else []
    outcome = "no end recorded" if answer.outcome == "unknown" else answer.outcome
    head = Text(
        f"Run {answer.run_id}: {outcome} after {seconds(answer.wall_s)}, {counted(len(answer.bands), 'attempt')}"
    )
    return Group(
        head, _attempts(answer, slice_s, columns), *lines, *_axis(answer.wall_s, columns), legend, *failures, *more
    )


def _line(row: Row, many: int, slice_s: float, columns: int) -> Text:
    label = row.label if many == 1 else f"{row.label} +{many - 1:,}"
    indent = "  " if row.kind == "rank" else ""
    line = Text(f"{indent}{label}"[: _LABEL - 1].ljust(_LABEL), style="" if row.kind == "rank" else "bold")
    cells: list[tuple[str, str]] = [(" ", "")] * columns
    order = list(STATES)
    for box in sorted(row.boxes, key=lambda box: order.index(box.state)):
        first = min(columns - 1, int(box.start_s / slice_s))
        last = min(columns, max(first + 1, round(box.end_s / slice_s)))
        cells[first:last] = [_LOOK[box.state]] * (last - first)
    for mark in sorted(row.marks, key=lambda mark: mark.kind == "first"):
        if mark.kind in _MARKS:
            cells[max(0, min(columns - 1, int(mark.at_s / slice_s)))] = _MARKS[mark.kind]
    for char, style in cells:
        line.append(char, style)
    return line


def _attempts(answer: Timeline, slice_s: float, columns: int) -> Text:
    """Where each attempt began, by its number."""
    cells = [" "] * columns
    for band in answer.bands:
        at = min(columns - 1, int(max(0.0, band.start_s) / slice_s))
        for offset, char in enumerate(f"╷{band.attempt}"):
            if at + offset < columns and cells[at + offset] == " ":
                cells[at + offset] = char
    return Text("attempt".ljust(_LABEL) + "".join(cells), style="dim")


def _axis(wall_s: float, columns: int) -> Iterator[Text]:
    step = nice_step(wall_s, max(2, columns // 12))
    ruler, labels = [" "] * columns, [" "] * (columns + 8)
    at = 0.0
    while wall_s and at <= wall_s:
        column = min(columns - 1, round(at / wall_s * columns))
        ruler[column] = "╵"
        for offset, char in enumerate(seconds(at).replace(".0 s", " s") if at else "0"):
            if column + offset < len(labels):
                labels[column + offset] = char
        at += step
    yield Text(" " * _LABEL + "".join(ruler), style="dim")
    yield Text(" " * _LABEL + "".join(labels[:columns]).rstrip(), style="dim")


def nice_step(wall_s: float, most: int) -> float:
    """Return a round number of seconds that divides `wall_s` into at most `most` parts."""
    steps = [base * 10.0**power for power in range(-6, 1) for base in (1, 2, 5)]
    steps += [10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 21600, 43200]
    steps += [86400.0 * days for days in (1, 2, 5, 10, 20, 50, 100, 1000)]
    return next((step for step in steps if wall_s / step <= most), wall_s)
