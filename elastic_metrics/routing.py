"""Which handler was in force for which metric point: delivery comes later than `configure`."""

import threading
from bisect import bisect_right
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from elastic_events.bus.fork import after_fork_in_child
from elastic_events.bus.record import Record

if TYPE_CHECKING:
    from elastic_events.bus.bus import EventBus

__all__ = ("Routing",)

#: Group -> handler; the group None stands for those without one of their own, the handler None for nobody.
Table = dict[str | None, Any]


class _Routes:
    """The tables of one bus, each with the metric sequence that it begins with. Holds no bus: its lanes hold it."""

    def __init__(self) -> None:
        self._handlers: list[Any] = []
        # One tuple, replaced whole: the drain reads it while another thread configures.
        self._history: tuple[str, tuple[int, ...], tuple[Table, ...]] = ("", (), ({},))

    def change(self, bus: "EventBus", table: Table) -> None:
        """Let `table` hold from the next point on."""
        for handler in table.values():
            if handler is not None and not any(handler is known for known in self._handlers):
                self._handlers.append(handler)
                bus.subscribe(handler, events=False, where=partial(self._is_for, handler))
        process, since, tables = self._history
        if process != bus.context.process:  # a bus that is new here, or a forked child's, whose sequence begins again
            since, tables = (), ()
        # The head is read after the lanes exist: what comes in between still has the handler of before.
        self._history = (bus.context.process, (*since, bus._metric_head()), (*tables, table))

    def find(self, record: Record) -> Any:
        """Return the handler that was in force when `record` was put; for another process's record, the one of now."""
        process, since, tables = self._history
        own = record.context.process == process
        table = tables[max(bisect_right(since, record.seq) - 1, 0) if own else -1]
        return table.get(record.channel, table.get(None))

    def _is_for(self, handler: Any, record: Record) -> bool:
        return self.find(record) is handler


class Routing:
    """The routes of every bus. Any thread may call it."""

    def __init__(self, table: Callable[[], Table]) -> None:
        self._table = table
        self._routes: WeakKeyDictionary[EventBus, _Routes] = WeakKeyDictionary()
        self._lock = threading.RLock()
        after_fork_in_child(lambda: [self])

    def opened(self, bus: "EventBus") -> None:
        """Let the handlers of now have the points of `bus`, which opens or starts again in a forked child."""
        with self._lock:
            table = self._table()
            if bus in self._routes or any(handler is not None for handler in table.values()):
                self._routes.setdefault(bus, _Routes()).change(bus, table)

    def changed(self, bus: "EventBus | None") -> None:
        """Let the handlers of now have the points of `bus`, and of every bus known: one beneath it may be current again."""
        with self._lock:
            table = self._table()
            if bus is not None:
                self._routes.setdefault(bus, _Routes())
            for known, routes in list(self._routes.items()):
                if known.stats().state != "closed":
                    routes.change(known, table)

    def after_fork(self) -> None:
        """Drop a lock that a thread of the parent may hold; only rebinds attributes."""
        self._lock = threading.RLock()
