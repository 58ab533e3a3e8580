"""A run on one screen: attempts, who died first and of what, its last words, the training, the ledgers."""

from collections.abc import Iterable
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from elastic_events.bus.record import Record

__all__ = ("summary",)


def summary(records: Iterable[Record]) -> RenderableType:
    """Return the summary of a run, from the events that a launcher, or the torchrun plug-in, records."""
    story = sorted(records, key=lambda record: record.time_ns)
    return Group(_attempts(story), *_failure(story), _training(story), *_ledgers(story))


def _attempts(story: list[Record]) -> Table:
    table = Table(title="Attempts", title_justify="left", box=SIMPLE_HEAD)
    for column in ("attempt", "duration", "steps", "outcome", "first to die", "ended by"):
        table.add_column(column)
    for started in _named(story, "attempt.started"):
        number = _facts(started).get("attempt")
        ended = next((r for r in _named(story, "attempt.ended") if _facts(r).get("attempt") == number), None)
        first = next(
            (
                _facts(r)
                for r in _named(story, "worker.failed")
                if _facts(r).get("attempt") == number and _facts(r).get("first")
            ),
            {},
        )
        ended_steps = [r for r in _named(story, "step.ended") if r.context.restart == number]
        steps = _numbers(_facts(r).get("step") for r in ended_steps)
        row = (
            str(number),
            f"{(ended.time_ns - started.time_ns) / 1e9:.1f} s" if ended else "",
            f"{min(steps)} to {max(steps)}" if steps else "none",
            str(_facts(ended).get("outcome")) if ended else "unknown",
            f"rank {first.get('rank')}, pid {first.get('pid')}" if first else "",
            str(first.get("signal") or first.get("exit_code") or ""),
        )
        table.add_row(*map(Text, row))
    return table


def _failure(story: list[Record]) -> list[RenderableType]:
    """The last records of the worker that died first, up to its last instant."""
    first = next((r for r in _named(story, "worker.failed") if _facts(r).get("first")), None)
    if first is None:
        return []
    last = [r for r in story if r.context.pid == _facts(first).get("pid") and r.kind != "ledger"][-4:]
    table = Table(title=Text(f"Last words of rank {_facts(first).get('rank')}"), title_justify="left", box=SIMPLE_HEAD)
    for column in ("before its death was noticed", "record", "value"):
        table.add_column(column)
    for record in last:
        value = record.fields[0] if record.kind == "metric" else _facts(record)
        shown = f"{value:.4g}" if isinstance(value, float) else _listed(value)
        table.add_row(f"{(first.time_ns - record.time_ns) / 1e6:.1f} ms", Text(record.name), Text(shown))
    return [table]


def _training(story: list[Record]) -> Text:
    losses = _numbers(r.fields[0] for r in _named(story, "loss"))
    found = next(iter(_numbers(r.fields[0] for r in _named(story, "accuracy"))), None)
    if not losses:
        return Text("No loss was recorded.")
    text = f"Loss {losses[0]:.3f} at the start, {losses[-1]:.3f} at the end"
    return Text(text + (f"; {found:.0%} of the flowers are classified right." if found is not None else "."))


def _ledgers(story: list[Record]) -> list[Text]:
    """The counts that each sink was closed with; a file without any is cut short, or still being written."""
    ledgers = [record.fields[0] for record in story if record.kind == "ledger"]
    if not ledgers:
        return [Text("No ledger: the bus that wrote this was killed, or still runs.")]
    return [
        Text(
            f"Records through {facts['lane']}: {facts['accepted']} accepted, {facts['delivered']} delivered, "
            f"{sum(facts['dropped'].values())} dropped, {facts['failed']} failed."
        )
        for facts in ledgers
    ]


def _named(story: list[Record], name: str) -> list[Record]:
    return [record for record in story if record.name == name]


def _numbers(values: Iterable[Any]) -> list[int | float]:
    return [value for value in values if isinstance(value, int | float)]


def _listed(value: Any) -> str:
    return ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else str(value)


def _facts(record: Record) -> dict[str, Any]:
    """Return an event's metadata; nothing for what is no dict, or no event."""
    metadata = record.fields[2] if record.kind == "event" else None
    return metadata if isinstance(metadata, dict) else {}
