"""Events of this package itself, which take a shorter way."""

from elastic_events import Record
from elastic_events.api import Event, EventSource
from elastic_events.front import record, record_ours
from elastic_events.testing import capture


def test_an_event_of_ours_is_as_any_other() -> None:
    """It is recorded as `record` records it, and what its keys or a redactor call a secret is none of it, either."""
    facts: dict[str, int | str | bool] = {"step": "~3", "took_ns": 2**62, "skipped": True}
    with capture() as found:
        for _ in range(2):  # the first time a key is new
            record_ours("step.observed", facts)
            record(Event("step.observed", EventSource.WORKER, 0, {**facts}))
        record_ours("step.observed", {"password": "hush", "step": 1})
        record_ours("step.observed", {"step": object()})  # type: ignore[dict-item]
        record(Event("step.observed", EventSource.WORKER, 0, {"step": object()}))  # type: ignore[dict-item]
    first, *rest, secret, ours, hard = found
    assert all(_said(one) == _said(first) for one in rest)
    assert len(rest) == 3
    assert secret.event.metadata == {"password": "[redacted]", "step": 1}
    assert _said(ours) == _said(hard)


def _said(record: Record) -> tuple[object, ...]:
    """Return all of an event but its time."""
    return (record.name, record.destination, record.fields[0], record.metadata)
