"""What the demo tells at its end: from the stored records, not from what the launcher remembers."""

from collections.abc import Iterable
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from elastic_events.bus.record import Record
from elastic_events.bus.stats import BusStats

__all__ = ("report",)


def report(records: Iterable[Record], stats: BusStats) -> RenderableType:
    """Return the summary of a run: attempts, first failure with its last words, steps, loss, ledger."""
    story = sorted(records, key=lambda record: record.time_ns)
    return Group(_attempts(story), *_failure(story), _training(story), _ledger(stats))


def _attempts(story: list[Record]) -> Table:
    table = Table(title="Attempts", title_justify="left")
    for column in ("attempt", "duration", "steps", "outcome", "first to die", "ended by"):
        table.add_column(column)
    for started in _named(story, "attempt.started"):
        number = _facts(started)["attempt"]
        ended = next((r for r in _named(story, "attempt.ended") if _facts(r)["attempt"] == number), None)
        first = next(
            (
                _facts(r)
                for r in _named(story, "worker.failed")
                if _facts(r)["attempt"] == number and _facts(r)["first"]
            ),
            {},
        )
        steps = [_facts(r)["step"] for r in _named(story, "step.ended") if r.context.restart == number]
        table.add_row(
            str(number),
            f"{(ended.time_ns - started.time_ns) / 1e9:.1f} s" if ended else "",
            f"{min(steps)} to {max(steps)}" if steps else "none",
            _facts(ended)["outcome"] if ended else "unknown",
            f"rank {first['rank']}, pid {first['pid']}" if first else "",
            str(first.get("signal") or first.get("exit_code") or ""),
        )
    return table


def _failure(story: list[Record]) -> list[RenderableType]:
    """The last records of the worker that died first, up to its last instant."""
    first = next((r for r in _named(story, "worker.failed") if _facts(r)["first"]), None)
    if first is None:
        return []
    last = [r for r in story if r.context.pid == _facts(first)["pid"] and r.kind != "ledger"][-4:]
    table = Table(title=f"Last words of rank {_facts(first)['rank']}", title_justify="left")
    for column in ("before its death was noticed", "record", "value"):
        table.add_column(column)
    for record in last:
        value = record.fields[0] if record.kind == "metric" else _facts(record)
        table.add_row(f"{(first.time_ns - record.time_ns) / 1e6:.1f} ms", record.name, str(value))
    return [table]


def _training(story: list[Record]) -> Text:
    losses = [r.fields[0] for r in _named(story, "loss")]
    found = next((r.fields[0] for r in _named(story, "accuracy")), None)
    if not losses:
        return Text("No step was trained.")
    text = f"Loss {losses[0]:.3f} at the start, {losses[-1]:.3f} at the end"
    return Text(text + (f"; {found:.0%} of the flowers are classified right." if found is not None else "."))


def _ledger(stats: BusStats) -> Text:
    lane = stats.lanes["sqlite"]
    dropped = sum(lane.dropped.values())
    return Text(
        f"Records: {lane.accepted} accepted, {lane.delivered} delivered, {dropped} dropped, {lane.failed} failed."
    )


def _named(story: list[Record], name: str) -> list[Record]:
    return [record for record in story if record.name == name]


def _facts(record: Record) -> dict[str, Any]:
    metadata: dict[str, Any] = record.fields[2]
    return metadata
