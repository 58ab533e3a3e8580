"""What torch records for "elastic" in a worker."""

import json

from elastic_events.api import Event
from elastic_events.front import record
from elastic_events.torchrun.shield import shielded

__all__ = ("record_in_worker",)


@shielded
def record_in_worker(text: str) -> None:
    """Record one event that torch serialized, in a worker: its recorder has it, and the agent collects it."""
    fields = json.loads(text)
    record(Event(fields["name"], fields["source"], fields.get("timestamp") or 0, fields.get("metadata") or {}))
