"""The timeline as one page that needs nothing else: zoom, hover, keyboard, light and dark."""

import re
from importlib.resources import files
from typing import Any

import msgspec

from elastic_events.bus.text import counted
from elastic_events.reading.rows import NAMES, STATES, Mark, Row, Timeline
from elastic_events.reading.words import seconds

__all__ = ("timeline_html",)


def timeline_html(answer: Timeline) -> str:
    """Return the page. What was recorded gets into it as JSON in which no tag can begin, and onto it as text only."""
    states = list(STATES)
    outcome = "no end recorded" if answer.outcome == "unknown" else answer.outcome
    rows = [_row(row, states) for row in answer.rows]
    data = {
        "title": f"Run {answer.run_id}: {outcome} after {seconds(answer.wall_s)}",
        "told": ", ".join(_told(answer)),
        "wall": answer.wall_s,
        "states": [(state, NAMES[state]) for state in states],
        "used": sorted({states.index(box.state) for row in answer.rows for box in row.boxes}),
        "kinds": sorted({mark.kind for row in answer.rows for mark in row.marks}),
        "bands": [(b.attempt, _short(b.start_s), _short(b.end_s), b.outcome, b.cause) for b in answer.bands],
        "rows": rows,
    }
    text = msgspec.json.encode(data).decode().replace("<", "\\u003c").replace("\u2028", "\\u2028")
    page = files("elastic_events.reading").joinpath("timeline_page.html").read_text("utf-8")
    return page.replace("__DATA__", text, 1)


def _told(answer: Timeline) -> list[str]:
    nodes = sum(row.kind == "node" for row in answer.rows)
    told = [counted(nodes, "node"), counted(_ranks(answer), "rank"), counted(len(answer.bands), "attempt")]
    return told if len(answer.rows) > nodes else [*told, "a row a node"]


def _ranks(answer: Timeline) -> int:
    """Return how many ranks there are: one that two nodes had, as one that came back is another, is one."""
    rows = [row for row in answer.rows if row.kind == "node"]
    if not all(row.which for row in rows):  # some do not know theirs
        return sum(row.ranks for row in rows)
    spans = re.findall(r"(-?\d+)(?:-(-?\d+))?", ", ".join(row.which for row in rows))
    return len({rank for low, high in spans for rank in range(int(low), int(high or low) + 1)})


def _row(row: Row, states: list[str]) -> tuple[Any, ...]:
    boxes = sorted(row.boxes, key=lambda box: states.index(box.state))
    return (
        row.label,
        int(row.kind == "node"),
        row.ranks,
        [
            (_short(box.start_s), _short(box.end_s), states.index(box.state), box.attempt, *filter(None, [box.label]))
            for box in boxes
        ],
        [(_short(mark.at_s), mark.kind, mark.attempt, mark.label) for mark in sorted(row.marks, key=_weight)],
        row.which,
    )


#: Kinds of marks, in the order in which they lie above each other.
_KINDS = ("succeeded", "victim", "failed", "first")


def _weight(mark: Mark) -> int:
    return _KINDS.index(mark.kind) if mark.kind in _KINDS else 0


def _short(seconds_: float) -> float:
    return round(seconds_, 4)
