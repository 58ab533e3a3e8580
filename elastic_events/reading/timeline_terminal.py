"""The timeline in a terminal: a row a rank, a column a slice of time, letters that read without colour."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from rich.console import Group, RenderableType
from rich.text import Text

from elastic_events.bus.text import counted
from elastic_events.reading.rows import NAMES, STATES, Box, Row, Timeline, alike, ended
from elastic_events.reading.shown import shown
from elastic_events.reading.words import seconds

__all__ = ("nice_step", "timeline_terminal")

_ROWS = 40
_LABEL = 18
_ENDS = 5

#: State -> its letter, its style, its name.
_LOOK = {
    "rendezvous": ("r", "magenta", NAMES["rendezvous"]),
    "startup": ("s", "cyan", NAMES["startup"]),
    "restore": ("o", "blue", NAMES["restore"]),
    "running": ("━", "green", NAMES["running"]),
    "training": ("━", "green", NAMES["training"]),
    "lost": ("╌", "red", NAMES["lost"]),
    "checkpoint": ("c", "bold blue", NAMES["checkpoint"]),
}

#: Kind of a mark -> the same; of two in one column the later one of this list is shown.
_MARKS = {
    "victim": ("v", "red", "ended by its agent"),
    "failed": ("x", "bold red", "failure"),
    "first": ("X", "bold white on red", "first failure"),
}

_ASCII = str.maketrans("━╌╷╵", "=-|'")


def timeline_terminal(answer: Timeline, width: int = 80, *, ascii_only: bool = False) -> RenderableType:
    """Draw the timeline into `width` columns, each in the state that took most of it.

    Rows that look alike are one where there are many. With `ascii_only` nothing else is used.
    """
    answer = shown(answer)
    columns = max(20, width - _LABEL - 1)
    slice_s = answer.wall_s / columns if answer.wall_s else 1.0
    rows = [(row, 1, _cells(row, slice_s, columns)) for row in answer.rows] if len(answer.rows) <= _ROWS else []
    rows = rows or _grouped(answer, slice_s, columns)
    hidden, rows = len(rows) - _ROWS, rows[:_ROWS]
    outcome = "no end recorded" if answer.outcome == "unknown" else answer.outcome
    lines = [
        Text(f"Run {answer.run_id}: {outcome} after {seconds(answer.wall_s)}, {counted(len(answer.bands), 'attempt')}"),
        _attempts(answer, slice_s, columns),
        *(_line(row, many, cells) for row, many, cells in rows),
        *_axis(answer.wall_s, columns),
        *_legend(rows, slice_s, width),
        *_ends(answer),
    ]
    if hidden > 0:
        lines.append(Text(f"{counted(hidden, 'more row')} that look different; --html shows all."))
    for line in lines if ascii_only else ():
        line.plain = line.plain.translate(_ASCII)
    return Group(*lines)


def _grouped(answer: Timeline, slice_s: float, columns: int) -> list[tuple[Row, int, list[str]]]:
    """Return one of each kind of rows that look the same, how many these are, and its columns."""
    found: dict[tuple[str, ...], tuple[Row, int, list[str]]] = {}
    for row, group in alike(answer.rows, slice_s):
        cells = _cells(row, slice_s, columns)
        first, many, _ = found.get((row.kind, *cells), (row, 0, cells))
        found[row.kind, *cells] = first, many + len(group), cells
    return list(found.values())


def _line(row: Row, many: int, cells: list[str]) -> Text:
    label = row.label if many == 1 else f"{row.label} +{many - 1:,}"
    indent = "  " if row.kind == "rank" else ""
    line = Text(f"{indent}{label}"[: _LABEL - 1].ljust(_LABEL), style="" if row.kind == "rank" else "bold")
    for one in cells:
        char, style, _ = _MARKS.get(one) or _LOOK.get(one, (" ", "", ""))
        line.append(char, style)
    return line


def _cells(row: Row, slice_s: float, columns: int) -> list[str]:
    """Return for each column the state that took most of it, or the mark that is in it; empty: nothing."""
    shares: list[dict[str, float]] = [{} for _ in range(columns)]
    for start, end, state in _on_top(row.boxes):
        first = max(0, min(columns - 1, int(start / slice_s)))
        for column in range(first, max(first + 1, min(columns, int(end / slice_s) + 1))):
            # A state that lasted no time at all, as one that just began, takes an empty column.
            share = min(end, (column + 1) * slice_s) - max(start, column * slice_s)
            shares[column][state] = shares[column].get(state, 0.0) + max(share, 1e-9 * slice_s)
    cells = [max(share, key=share.__getitem__, default="") for share in shares]
    rank = list(_MARKS)
    for mark in sorted((mark for mark in row.marks if mark.kind in _MARKS), key=lambda mark: rank.index(mark.kind)):
        cells[max(0, min(columns - 1, int(mark.at_s / slice_s)))] = mark.kind
    return cells


def _on_top(boxes: Sequence[Box]) -> Iterator[tuple[float, float, str]]:
    """Cut boxes that lie above each other into spans, each in the state of the uppermost."""
    order = list(STATES)
    edges = sorted({edge for box in boxes for edge in (box.start_s, box.end_s)})
    waiting = sorted(boxes, key=lambda box: box.start_s, reverse=True)
    open_: list[Box] = []
    for start, end in [*pairwise(edges), (edges[-1], edges[-1])] if edges else ():
        open_ = [box for box in open_ if box.end_s > start]
        while waiting and waiting[-1].start_s <= start:
            open_.append(waiting.pop())
        if open_:
            yield start, end, max((box.state for box in open_), key=order.index)


def _legend(rows: list[tuple[Row, int, list[str]]], slice_s: float, width: int) -> Iterator[Text]:
    """What the letters are, what is too short to have one, and what stands behind a name."""
    letters = {one for _, _, cells in rows for one in cells}
    words = [
        f"{letter} {word}" for look in (_LOOK, _MARKS) for one, (letter, _, word) in look.items() if one in letters
    ]
    line = ""
    for word in words:
        if line and len(line) + 2 + len(word) > width:
            yield Text(line, style="dim")
            line = ""
        line += f"  {word}" if line else word
    yield Text(line, style="dim")
    boxes = {box.state for row, _, _ in rows for box in row.boxes}
    short = [word for state, (_, _, word) in _LOOK.items() if state in boxes - letters]
    if short:
        yield Text(f"Nowhere the most of a column ({seconds(slice_s)}): {', '.join(short)}.", style="dim")
    if any(many > 1 for _, many, _ in rows):
        yield Text("+N behind a name: N more rows look the same.", style="dim")


def _ends(answer: Timeline) -> Iterator[Text]:
    """How attempts ended; of many, how many more there are."""
    ends = list(filter(None, map(ended, answer.bands)))
    for words in ends[:_ENDS]:
        yield Text(f"A{words[1:]}.")
    if len(ends) > _ENDS:
        yield Text(f"And {counted(len(ends) - _ENDS, 'more attempt')}; --json has all.")


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
    ruler, labels = [" "] * columns, [" "] * columns
    at = 0.0
    while wall_s and at <= wall_s:
        column = min(columns - 1, round(at / wall_s * columns))
        ruler[column] = "╵"
        label = seconds(at).replace(".0 s", " s") if at else "0"
        begin = min(column, columns - len(label))
        labels[begin : begin + len(label)] = label
        at += step
    yield Text(" " * _LABEL + "".join(ruler), style="dim")
    yield Text(" " * _LABEL + "".join(labels).rstrip(), style="dim")


def nice_step(wall_s: float, most: int) -> float:
    """Return a round number of seconds that divides `wall_s` into at most `most` parts."""
    steps = [base * 10.0**power for power in range(-6, 1) for base in (1, 2, 5)]
    steps += [10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 21600, 43200]
    steps += [86400.0 * days for days in (1, 2, 5, 10, 20, 50, 100, 1000)]
    return next((step for step in steps if wall_s / step <= most), wall_s)
