"""Numbers as people read them."""

from collections.abc import Iterable, Iterator

__all__ = ("by_attempt", "error_line", "seconds", "spans")

_LINE = 160


def seconds(value: float | None) -> str:
    """Return a duration in the unit that suits it, once it is rounded; empty for None."""
    if not value:
        return "" if value is None else "0 s"
    size = abs(value)
    if size < 0.00995:
        return f"{value * 1e3:.2g} ms"
    if size < 0.9995:
        return f"{value * 1e3:.0f} ms"
    if size < 119.95:
        return f"{value:.1f} s"
    sign = "-" if value < 0 else ""
    if size < 3599.5:
        minutes, rest = divmod(round(size), 60)
        return f"{sign}{minutes}m {rest:02}s"
    hours, minutes = divmod(round(size / 60), 60)
    return f"{sign}{hours}h {minutes:02}m"


def by_attempt(said: Iterable[tuple[int, str]]) -> Iterator[str]:
    """Give a sentence for each text that is not empty, with the attempts that it is said of: "Attempt 0-2: TEXT."."""
    found: dict[str, list[int]] = {}
    for attempt, text in said:
        if text:
            found.setdefault(text, []).append(attempt)
    yield from (f"Attempt {spans(attempts)}: {text}." for text, attempts in found.items())


def spans(numbers: list[int], limit: int = 6) -> str:
    """Return sorted numbers as ranges: "0-3, 7"; of many ranges the first, and how many numbers more."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs[:limit])
    rest = sum(last - first + 1 for first, last in runs[limit:])
    return f"{shown} and {rest:,} more" if rest else shown


def error_line(message: str, limit: int = _LINE) -> str:
    """Return the one line of an error that says what it was: of a traceback the exception, else the first; not too long."""
    lines = [line.rstrip() for line in message.strip().splitlines() if line.strip()] or [""]
    traces = [at for at, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    said = lines[traces[-1] + 1 :] if traces else lines
    line = next((line for line in said if not traces or not line.startswith(" ")), lines[-1]).strip()
    return line if len(line) <= limit else f"{line[: limit - 4].rstrip()} ..."
