"""The timeline as a picture: a static SVG, which every browser, README and slide shows; dark where its reader is."""

from collections.abc import Iterator
from html import escape

from elastic_events.bus.text import counted
from elastic_events.reading.rows import NAMES, STATES, Mark, Row, Timeline, alike, ended
from elastic_events.reading.timeline_terminal import nice_step
from elastic_events.reading.words import seconds

__all__ = ("COLOURS", "timeline_svg")

#: State -> its colour; dark enough for a white ground, light enough to tell apart when printed.
COLOURS = {
    "rendezvous": "#b197d6",
    "startup": "#9cc9e8",
    "restore": "#4f8fc4",
    "running": "#3fa273",
    "training": "#3fa273",
    "lost": "#f0b7a4",
    "checkpoint": "#1f5fbf",
}
_RED, _INK, _SOFT, _GRID, _GROUND = "red", "ink", "soft", "grid", "ground"

#: What else has a colour -> it. Attributes of the shapes say all of these; who reads no styles sees the light picture.
_LIGHT = {**COLOURS, _RED: "#c62f2f", _INK: "#1f2933", _SOFT: "#66727f", _GRID: "#e3e8ee", _GROUND: "#ffffff"}

#: The same in the dark.
_DARK = {
    "rendezvous": "#8b70b8",
    "startup": "#5a9bc4",
    "restore": "#2f5fa8",
    "running": "#2f9468",
    "training": "#2f9468",
    "lost": "#a8614b",
    "checkpoint": "#5b9bff",
    _RED: "#ff6b63",
    _INK: "#e6ebf0",
    _SOFT: "#9aa7b4",
    _GRID: "#2d3742",
    _GROUND: "#12171d",
}
_STYLE = " ".join(f".{name} {{ fill: {colour} }} .{name}-line {{ stroke: {colour} }}" for name, colour in _DARK.items())

_WIDTH, _LEFT, _RIGHT, _TOP = 1000, 132, 24, 100
_RANK, _NODE, _GAP = 20, 18, 8  # heights of rows, and what is between nodes
_ROWS = 80


def timeline_svg(answer: Timeline) -> str:
    """Return the picture as an SVG document, 1,000 wide. Rows that look alike are one where there are many."""
    rows = [(row, 1) for row in answer.rows]
    if len(rows) > _ROWS:
        rows = [(row, len(group)) for row, group in alike(answer.rows, max(answer.wall_s, 1e-9) / 800)]
    return "\n".join(_Picture(answer, rows[:_ROWS], len(rows) - _ROWS).lines())


class _Picture:
    """Places rows on the sheet, and draws them."""

    def __init__(self, answer: Timeline, rows: list[tuple[Row, int]], hidden: int) -> None:
        self.answer = answer
        self.rows = rows
        self.hidden = hidden
        self.scale = (_WIDTH - _LEFT - _RIGHT) / (answer.wall_s or 1.0)
        self.tops: list[int] = []
        top = _TOP
        for at, (row, _) in enumerate(rows):
            if row.kind == "node" and at:
                top += _GAP
            self.tops.append(top)
            top += _NODE if row.kind == "node" else _RANK
        self.bottom = top + 6
        self.height = self.bottom + (52 if hidden <= 0 else 70)

    def x(self, at_s: float) -> float:
        """Where a time is on the sheet."""
        return round(_LEFT + min(max(at_s, 0.0), self.answer.wall_s) * self.scale, 1)

    def lines(self) -> Iterator[str]:
        """Give the document."""
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {self.height}" width="{_WIDTH}" '
            f'height="{self.height}" role="img" aria-labelledby="title" '
            'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="12">'
        )
        yield f'<title id="title">{escape(self._title())}</title>'
        yield f"<style>@media (prefers-color-scheme: dark) {{ {_STYLE} }}</style>"
        yield f'<rect width="{_WIDTH}" height="{self.height}" rx="8" {_fill(_GROUND)}/>'
        yield from self._heading()
        yield from self._attempts()
        yield from self._axis()
        for (row, many), top in zip(self.rows, self.tops, strict=True):
            yield from self._row(row, many, top)
        if self.hidden > 0:
            yield _text(_LEFT, self.height - 12, f"{counted(self.hidden, 'more row')} that look different", _SOFT)
        yield "</svg>"

    def _title(self) -> str:
        outcome = "no end recorded" if self.answer.outcome == "unknown" else self.answer.outcome
        return f"Run {self.answer.run_id}: {outcome} after {seconds(self.answer.wall_s)}"

    def _heading(self) -> Iterator[str]:
        yield _text(16, 30, self._title(), _INK, 'font-size="17" font-weight="600"')
        ends = list(filter(None, map(ended, self.answer.bands)))
        told = [counted(len(self.answer.bands), "attempt"), *ends[:2]]
        told += [f"{len(ends) - 2} more"] if len(ends) > 2 else []
        yield _text(16, 50, "; ".join(told), _SOFT)
        used = {box.state for row, _ in self.rows for box in row.boxes}
        at = 16.0
        for state in STATES:
            if state in used:
                word = NAMES[state]
                yield f'<rect x="{at:g}" y="64" width="12" height="12" rx="2" {_fill(state)}/>'
                yield _text(at + 17, 74, word, _INK)
                at += 34 + 6.6 * len(word)
        kinds = {mark.kind for row, _ in self.rows for mark in row.marks}
        for kind, word in _MARKS.items():
            if kind in kinds:
                yield _sign(at + 6, 70, kind)
                yield _text(at + 17, 74, word, _INK)
                at += 34 + 6.6 * len(word)

    def _attempts(self) -> Iterator[str]:
        """A line where each attempt begins, and its number where there is room."""
        free = 0.0
        for band in self.answer.bands:
            x = self.x(band.start_s)
            yield (
                f'<line x1="{x}" x2="{x}" y1="{_TOP - 6}" y2="{self.bottom}" {_stroke(_SOFT)} stroke-width="0.8" '
                'stroke-dasharray="2 3"/>'
            )
            label = f"attempt {band.attempt}"
            if x + 6.4 * len(label) < _WIDTH - 4 and x >= free:
                yield _text(x + 3, _TOP - 6, label, _SOFT, 'font-size="11"')
                free = x + 6.4 * len(label) + 6

    def _axis(self) -> Iterator[str]:
        wall = self.answer.wall_s
        step = nice_step(wall, 8) if wall else 1.0
        for number in range(int(wall / step + 1e-9) + 1 if wall else 1):
            x = self.x(number * step)
            yield f'<line x1="{x}" x2="{x}" y1="{_TOP}" y2="{self.bottom}" {_stroke(_GRID)}/>'
            label = seconds(number * step).replace(".0 s", " s") if number else "0"
            yield _text(x, self.bottom + 18, label, _SOFT, f'text-anchor="{"middle" if number else "start"}"')
        yield f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{self.bottom}" y2="{self.bottom}" {_stroke(_SOFT)}/>'
        yield _text(
            _WIDTH - _RIGHT, self.bottom + 36, "time since the job began", _SOFT, 'text-anchor="end" font-size="11"'
        )

    def _row(self, row: Row, many: int, top: int) -> Iterator[str]:
        node = row.kind == "node"
        height = (_NODE if node else _RANK) - 4
        label = row.label if many == 1 else f"{row.label} +{many - 1:,}"
        weight = 'font-weight="600" text-anchor="end"' if node else 'text-anchor="end"'
        yield _text(_LEFT - 10, top + height - 3, _short(label), _INK if node else _SOFT, weight)
        order = list(STATES)
        for box in sorted(row.boxes, key=lambda box: order.index(box.state)):
            x, end = self.x(box.start_s), self.x(box.end_s)
            tall = height - 6 if box.state == "rendezvous" else height
            yield (
                f'<rect x="{x}" y="{top + (height - tall) / 2:g}" width="{max(1.0, round(end - x, 1))}" height="{tall}" '
                f"{_fill(box.state)}><title>{escape(_hover(row, box.state, box.label, box.start_s, box.end_s))}"
                "</title></rect>"
            )
        kinds = list(_MARKS)
        for mark in sorted(
            (mark for mark in row.marks if mark.kind in kinds), key=lambda mark: -kinds.index(mark.kind)
        ):
            yield _sign(self.x(mark.at_s), top + height / 2, mark.kind, mark.label)
            if mark.kind == "first":
                yield from self._cause(row, mark, top + height / 2 + 4)

    def _cause(self, row: Row, mark: Mark, y: float) -> Iterator[str]:
        """Write why an attempt failed beside its mark: where nothing is, else over what was before it."""
        x = self.x(mark.at_s)
        words = next((band.cause for band in self.answer.bands if band.attempt == mark.attempt), "").partition(": ")[2]
        free = min((b.start_s for b in row.boxes if b.start_s >= mark.at_s), default=self.answer.wall_s)
        needs = 14 + 7.2 * len(words)
        if words and self.x(free) - x > needs:
            yield _text(x + 10, y, words, _RED, 'font-weight="600"')
        elif words and x - _LEFT > needs:
            halo = f'class="{_GROUND}-line" stroke="{_LIGHT[_GROUND]}" stroke-width="4" stroke-linejoin="round"'
            place = f'x="{x - 10:g}" y="{y:g}" text-anchor="end" font-weight="600"'
            yield f'<text {place} fill="none" aria-hidden="true" {halo}>{escape(words)}</text>'
            yield f"<text {place} {_fill(_RED)}>{escape(words)}</text>"


def _hover(row: Row, state: str, label: str, start_s: float, end_s: float) -> str:
    words = [row.label, NAMES[state], label, f"{seconds(start_s)} to {seconds(end_s)}"]
    return ", ".join(word for word in words if word)


#: Kind of a mark -> what the legend calls it; the first of these lies above the others.
_MARKS = {"first": "first failure", "failed": "failure", "victim": "ended by its agent"}


def _sign(x: float, y: float, kind: str, label: str = "") -> str:
    title = f"<title>{escape(label)}</title>" if label else ""
    place = f'cx="{x:g}" cy="{y:g}"'
    red, ground = _LIGHT[_RED], _LIGHT[_GROUND]
    if kind == "victim":
        shape = f'class="{_GROUND} {_RED}-line" fill="{ground}" stroke="{red}" stroke-width="2"'
        return f'<circle {place} r="3.5" {shape}>{title}</circle>'
    shape = f'class="{_RED} {_GROUND}-line" fill="{red}" stroke="{ground}"'
    if kind == "failed":
        return f'<circle {place} r="4" {shape}>{title}</circle>'
    return (
        f'<g><circle {place} r="6" {shape}/><path d="M{x - 2.5:g} {y - 2.5:g}l5 5m0-5l-5 5" {_stroke(_GROUND)} '
        f'stroke-width="1.6" fill="none"/>{title}</g>'
    )


def _fill(name: str) -> str:
    return f'class="{name}" fill="{_LIGHT[name]}"'


def _stroke(name: str) -> str:
    return f'class="{name}-line" stroke="{_LIGHT[name]}"'


def _text(x: float, y: float, text: str, colour: str, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" {_fill(colour)} {more}>{escape(text)}</text>'


def _short(label: str) -> str:
    return label if len(label) <= 18 else f"{label[:8]}…{label[-9:]}"
