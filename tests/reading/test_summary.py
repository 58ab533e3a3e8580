"""The summary shows what was recorded, whatever it holds."""

import io
from typing import Any

from rich.console import Console

from elastic_events.bus.context import read_context
from elastic_events.bus.record import Record
from elastic_events.reading.summary import summary

HERE = read_context({"TORCHELASTIC_RESTART_COUNT": "0"})


def _record(number: int, name: str, value: Any, kind: Any = "event") -> Record:
    fields = (value,) if kind == "metric" else ("WORKER", 0, value)
    return Record(kind, number, number, number, name, "null", fields, HERE)


def _shown(*records: Record) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(summary(records))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_markup_stays_text() -> None:
    """Square brackets in what was recorded are printed as they are; none is taken for rich's markup."""
    shown = _shown(
        _record(0, "attempt.started", {"attempt": 0}),
        _record(
            1, "worker.failed", {"attempt": 0, "first": True, "rank": "[/rank]", "signal": "[/b]", "pid": HERE.pid}
        ),
        _record(2, "attempt.ended", {"attempt": 0, "outcome": "[red]failed"}),
    )
    assert "rank [/rank]" in shown
    assert "[/b]" in shown
    assert "[red]failed" in shown


def test_values_of_any_type_are_shown() -> None:
    """A step, a loss or an accuracy that is no number takes nothing else from the summary."""
    shown = _shown(
        _record(0, "attempt.started", {"attempt": 0}),
        _record(1, "step.ended", {"step": "one"}),
        _record(2, "step.ended", {"step": 3}),
        _record(3, "loss", "high", "metric"),
        _record(4, "accuracy", None, "metric"),
    )
    assert "3 to 3" in shown
    assert "No loss was recorded." in shown
