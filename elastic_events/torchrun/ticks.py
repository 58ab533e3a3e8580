"""The monitor's tick, thinned: four metric points every tenth of a second, nearly all of which say nothing new."""

from elastic_events.bus.record import Record

__all__ = ("Ticks",)

_PARTS = frozenset({"remaining_restarts", "healthy"})
_MONITOR = "LocalElasticAgent._monitor_workers."

#: Names that are remembered, at most.
NAMES = 1024


class Ticks:
    """Lets a tick's metric pass when it changes, and every `every` seconds; all other records always.

    The time that a tick took differs each time and is no change: it passes once every `every` seconds. The agent's plug-in
    asks `passes` before it records. As a predicate for `EventBus.subscribe(where=Ticks())` it is one instance a lane,
    called in the drain's loop only, and the lane counts what is held back as filtered.
    """

    def __init__(self, every: float = 1.0) -> None:
        self.every_ns: int = int(every * 1e9)
        self._last: dict[str, tuple[int, object]] = {}

    def __call__(self, record: Record) -> bool:
        """Return whether `record` passes."""
        return record.kind != "metric" or self.passes(record.name, record.fields[0], record.monotonic_ns)

    def passes(self, name: str, value: object, monotonic_ns: int) -> bool:
        """Return whether the metric point of that name, value and time passes."""
        if not is_tick(name):
            return True
        if name.endswith(".ms"):
            value = None
        last = self._last.get(name)
        if last is not None and last[1] == value and monotonic_ns - last[0] < self.every_ns:
            return False
        if len(self._last) >= NAMES:  # that is no agent; of each name the next tick passes, no more than that
            self._last.clear()
        self._last[name] = (monotonic_ns, value)
        return True


def is_tick(name: str) -> bool:
    """Return whether torch's agent puts the metric `name` at every look at its workers."""
    return name.startswith(_MONITOR) or (name.startswith("workers.") and name.rpartition(".")[2] in _PARTS)
