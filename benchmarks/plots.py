"""The results as pictures: plain SVG, no dependency. Ours is coloured, the others are grey."""

import math
from collections.abc import Callable
from functools import partial
from html import escape

from benchmarks.measure import Row

__all__ = ("PLOTS", "bars", "figure")

WIDTH, LABELS, ROW = 900, 330, 22
OURS, OTHERS, INK, LINE = "#0a6ebd", "#b4b9bf", "#22272b", "#e3e6e8"


def bars(title: str, rows: list[tuple[str, float, str]], *, log: bool = False, unit: str = "") -> str:
    """Return horizontal bars, one per (label, value, what is written beside it); `log` gives a logarithmic scale."""
    span = WIDTH - LABELS - 150
    top = max((value for _, value, _ in rows), default=1) or 1
    low = (
        10 ** math.floor(math.log10(max(min((value for _, value, _ in rows if value > 0), default=1), 1e-9)))
        if log
        else 0
    )

    def length(value: float) -> float:
        if not log:
            return span * value / top
        decades = max(math.ceil(math.log10(top / low)), 1)
        return span * math.log10(max(value, low) / low) / decades

    height = 74 + ROW * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">',
        f'<title>{escape(title)}</title><rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="16" y="26" font-size="16" font-weight="bold" fill="{INK}">{escape(title)}</text>',
    ]
    ticks = [low * 10**n for n in range(max(math.ceil(math.log10(top / low)), 1) + 1)] if log else _ticks(top)
    for tick in ticks:
        x = LABELS + length(tick)
        parts.append(f'<path d="M{x:.1f} 42V{height - 26}" stroke="{LINE}"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{height - 10}" text-anchor="middle" fill="#69727a">{figure(tick)}{escape(unit)}</text>'
        )
    for number, (label, value, beside) in enumerate(rows):
        y = 46 + ROW * number
        ours = label.startswith("ours")
        weight = ' font-weight="bold"' if ours else ""
        parts += [
            f'<text x="{LABELS - 10}" y="{y + 13}" text-anchor="end" fill="{INK}"{weight}>{escape(label)}</text>',
            f'<rect x="{LABELS}" y="{y + 2}" width="{max(length(value), 1):.1f}" height="15" fill="{OURS if ours else OTHERS}"/>',
            f'<text x="{LABELS + length(value) + 6:.1f}" y="{y + 13}" fill="{INK}"{weight}>{escape(beside)}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _ticks(top: float) -> list[float]:
    """Return three to six round numbers from 0 up to `top`."""
    step = 10.0 ** math.floor(math.log10(top / 2))
    step *= next(factor for factor in (1, 2, 5) if top / (step * factor) < 6)
    return [step * number for number in range(int(top / step) + 1)]


def figure(value: float) -> str:
    """Return three digits, or a whole number where it is larger."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _cost(kind: str, rows: list[Row]) -> str:
    shown = [row for row in rows if "absent" not in row and row["subject"].startswith(f"{kind}: ")]
    return bars(
        f"Cost of one {kind} to the caller, as a multiple of the floor",
        [(row["subject"].partition(": ")[2], row["ratio"], f"{figure(row['ratio'])} ×") for row in shown],
        log=True,
        unit=" ×",
    )


def _survive(rows: list[Row]) -> str:
    shown = [row for row in rows if "absent" not in row]
    return bars(
        "Points left after SIGKILL",
        [(row["subject"], row["SIGKILL"], f"{row['SIGKILL']:,} of {row['points']:,}") for row in shown],
    )


def _late(step: str, rows: list[Row]) -> str:
    shown = [row for row in rows if "absent" not in row and row["step"] == step]
    return bars(
        f"{step} steps of 1 ms, ten metrics each: more than a millisecond late",
        [(row["subject"], row["late_percent"], f"{row['late_percent']:.2f} %") for row in shown],
        unit=" %",
    )


def _stalled(rows: list[Row]) -> str:
    shown = [row for row in rows if "absent" not in row]
    return bars(
        "Memory gained while the sink is stuck, MiB",
        [
            (
                row["subject"],
                max(row["grown_mib"], 0),
                f"blocked after {row['emitted']:,}" if row["blocked"] else f"{row['grown_mib']:.1f}",
            )
            for row in shown
        ],
        unit=" MiB",
    )


#: Question -> file name -> what draws it from the question's rows.
PLOTS: dict[str, dict[str, Callable[[list[Row]], str]]] = {
    "emit": {"metric": lambda rows: _cost("metric", rows), "event": lambda rows: _cost("event", rows)},
    "interference": {f"late-{step.lower()}": partial(_late, step) for step in ("Python", "NumPy", "torch")},
    "survive": {"survive": _survive},
    "stalled": {"stalled": _stalled},
}
