"""What frameworks log of themselves: TorchTitan's structured logger, and torchft's quorums, commits and errors.

They log for machines: a record's fields are its news. Whoever asks `logging` for them by name imports nothing of theirs. What
their own handlers get, and the root's, stays as it is.
"""

import logging
from typing import Any

from elastic_events.api import Event, EventSource
from elastic_events.front import put_metric, record
from elastic_events.observe.guard import guarded

__all__ = ("begin",)

_TORCHTITAN = "torchtitan.structured_logger"
_TORCHFT = {"torchft_quorums": "quorum", "torchft_commits": "commit", "torchft_errors": "error"}

#: Of their records; the others say where it was logged, or whose it is, which the context says.
_FIELDS = ("step", "relative_step", "value", "task_name", "replica_id", "quorum_id", "commit_result", "error")


class _Heard(logging.Logger):
    """A logger that is heard whatever its level. Its handlers get what they got before."""

    def isEnabledFor(self, level: int) -> bool:
        return level >= logging.INFO or super().isEnabledFor(level)

    def handle(self, record: logging.LogRecord) -> None:
        _hear(record)
        if super().isEnabledFor(record.levelno):
            super().handle(record)


def begin() -> None:
    """Hear them."""
    for name in (_TORCHTITAN, *_TORCHFT):
        logger = logging.getLogger(name)
        if type(logger) is logging.Logger:
            logger.__class__ = _Heard


@guarded("steps")
def _hear(said: logging.LogRecord) -> None:
    facts: dict[str, Any] = {name: value for name in _FIELDS if (value := getattr(said, name, None)) is not None}
    what = getattr(said, "log_type_name", None) if said.name == _TORCHTITAN else _TORCHFT.get(said.name)
    if what == "metric_value":
        put_metric(str(getattr(said, "event_name", "")), facts.get("value"), "torchtitan")
    elif what is not None:
        kind = "torchtitan" if said.name == _TORCHTITAN else "torchft"
        record(Event(f"{kind}.{what}", EventSource.WORKER, int(said.created * 1000), facts))
