"""The monitor's tick, thinned: four metric points every tenth of a second, nearly all of which say nothing new."""

from elastic_events.bus.record import Record

__all__ = ("Ticks",)

_PARTS = frozenset({"remaining_restarts", "healthy"})
_MONITOR = "LocalElasticAgent._monitor_workers."


class Ticks:
    """A predicate for `EventBus.subscribe(where=...)`: a tick's metric passes when it changes, and every `every` seconds.

    The time that a tick took differs each time and is no change: it passes once every `every` seconds. What is held back
    is counted as filtered by the lane. One instance a lane; it is called in the drain's loop only.
    """

    def __init__(self, every: float = 1.0) -> None:
        self.every_ns = int(every * 1e9)
        self._last: dict[str, tuple[int, object]] = {}

    def __call__(self, record: Record) -> bool:
        """Return whether `record` passes."""
        if record.kind != "metric" or not is_tick(record.name):
            return True
        value = None if record.name.endswith(".ms") else record.fields[0]
        last = self._last.get(record.name)
        if last is not None and last[1] == value and record.monotonic_ns - last[0] < self.every_ns:
            return False
        self._last[record.name] = (record.monotonic_ns, value)
        return True


def is_tick(name: str) -> bool:
    """Return whether torch's agent puts the metric `name` at every look at its workers."""
    return name.startswith(_MONITOR) or (name.startswith("workers.") and name.rpartition(".")[2] in _PARTS)
