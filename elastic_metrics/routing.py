"""Which handler was in force for which metric point: delivery comes later than `configure`."""

import threading
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

from elastic_events.bus.errors import BusClosed
from elastic_events.bus.fork import after_fork_in_child
from elastic_events.bus.record import Record

if TYPE_CHECKING:
    from elastic_events.bus.bus import EventBus
    from elastic_events.bus.lane import Lane

__all__ = ("Routing",)

#: Group -> handler; the group None stands for those without one of their own, the handler None for nobody.
Table = dict[str | None, Any]

#: Handlers that are in force no more, and still have a lane.
KEPT = 64


class _Routes:
    """The tables of one bus, each with the metric sequence that it begins with. Holds no bus: its lanes hold it."""

    def __init__(self) -> None:
        self._handlers: list[tuple[Any, object]] = []  # and the sink that each is to its lane
        # One tuple, replaced whole: the drain reads it while another thread configures.
        self._history: tuple[str, tuple[int, ...], tuple[Table, ...]] = ("", (), ({},))

    def change(self, bus: "EventBus", table: Table) -> None:
        """Let `table` hold from the next point on."""
        for handler in table.values():
            if handler is not None and not any(handler is known for known, _ in self._handlers):
                lane = cast("Lane", bus.subscribe(handler, events=False, where=partial(self._is_for, handler)))
                self._handlers.append((handler, lane.subscription.sink))
        process, since, tables = self._history
        if process != bus.context.process:  # a bus that is new here, or a forked child's, whose sequence begins again
            since, tables = (), ()
        # The head is read after the lanes exist: what comes in between still has the handler of before.
        head = bus._metric_head()
        # A table is forgotten when it holds for no point that the ring still has, or for none at all.
        first = max(bisect_right(since, head - bus._rings[1].capacity) - 1, 0)
        last = len(since) - (since[-1:] == (head,))
        self._history = (bus.context.process, (*since[first:last], head), (*tables[first:last], table))
        self._retire(bus, table)

    def _retire(self, bus: "EventBus", table: Table) -> None:
        """End the lanes of handlers in force no more, but for the last ones: these may come back, and keep their order."""
        now = {id(handler) for handler in table.values()}
        idle = [pair for pair in self._handlers if id(pair[0]) not in now]  # as they left it
        gone, kept = idle[:-KEPT], idle[-KEPT:]
        self._handlers = kept + [pair for pair in self._handlers if id(pair[0]) in now]
        sinks = {id(sink) for _, sink in gone}
        for lane in bus._drain.lanes if gone else ():
            if id(lane.subscription.sink) in sinks:
                lane.unsubscribe()

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
        self.lock: threading.RLock = threading.RLock()  #: held by who changes the table
        after_fork_in_child(lambda: [self])

    def opened(self, bus: "EventBus") -> None:
        """Let the handlers of now have the points of `bus`, which opens or starts again in a forked child."""
        with self.lock:
            table = self._table()
            if bus in self._routes or any(handler is not None for handler in table.values()):
                self._routes.setdefault(bus, _Routes()).change(bus, table)

    def changed(self, bus: "EventBus | None") -> None:
        """Let the handlers of now have the points of `bus`, and of every bus known: one beneath it may be current again."""
        with self.lock:
            table = self._table()
            if bus is not None:
                self._routes.setdefault(bus, _Routes())
            for known, routes in list(self._routes.items()):
                if known._state != "closed":
                    with suppress(BusClosed):  # another thread closes it
                        routes.change(known, table)

    def after_fork(self) -> None:
        """Drop a lock that a thread of the parent may hold; only rebinds attributes."""
        self.lock = threading.RLock()
