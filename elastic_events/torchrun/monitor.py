"""The events of `torch.monitor`, as records."""

import atexit
from collections.abc import Callable
from typing import Any

from elastic_events.api import Event, EventSource
from elastic_events.bus.bus import EventBus
from elastic_events.torchrun.shield import shielded

__all__ = ("torch_monitor",)


def torch_monitor(bus: EventBus) -> Callable[[], None]:
    """Record every event that is logged by `torch.monitor.log_event` in this process; return what ends that.

    The name is the event's, its data the metadata, its time the timestamp. torch calls handlers synchronously and hands
    their exceptions to whoever logged: this one emits and never raises. A handle that is dropped while it is registered
    crashes the interpreter at its end, so it is kept here and unregistered at exit. Imports torch.

    Raises:
        ImportError: there is no torch.
    """
    from torch import monitor

    @shielded
    def handle(event: Any) -> None:
        milliseconds = int(event.timestamp.timestamp() * 1000)
        bus.record(Event(event.name, EventSource.WORKER, milliseconds, dict(event.data)))

    handles = [monitor.register_event_handler(handle)]

    def end() -> None:
        atexit.unregister(end)
        while handles:
            monitor.unregister_event_handler(handles.pop())

    atexit.register(end)
    return end
