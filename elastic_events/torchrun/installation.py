"""Torch's events, rendezvous events and metrics, recorded with the facts that follow from them."""

import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from elastic_events.torchrun.agent import watch
from elastic_events.torchrun.messages import parse
from elastic_events.torchrun.repair import Fact, Repair, unpack
from elastic_events.torchrun.shield import shielded

if TYPE_CHECKING:
    from elastic_events.bus.bus import EventBus
    from elastic_events.torchrun.ticks import Ticks

__all__ = ("Installation", "Recording", "install")


class Recording(Protocol):
    """Where records go: an `EventBus`, the emitter of an agent's own rings, or the module functions. Never raises."""

    def record(self, event: Any, /) -> None:
        """Record an event."""

    def record_rdzv_event(self, event: Any, /) -> None:
        """Record a rendezvous event."""

    def put_metric(self, metric_name: str, metric_value: Any, metric_group: str | None, /) -> None:
        """Record a metric point."""


@contextmanager
def install(bus: "EventBus") -> "Iterator[Installation]":
    """Route what torch's elastic agent records in this process to `bus`, while the block lasts.

    Every event of any destination, every rendezvous event and the metrics of every group; torch's own handlers go on
    getting theirs. Beside torch's records stand the facts they leave out (see `Repair`). To thin the monitor's ticks, give
    the handlers `where=Ticks()`. Imports torch. No fault in here reaches torch.

    Raises:
        ImportError: there is no torch.
    """
    installation = Installation(bus)
    installation.install()
    try:
        yield installation
    finally:
        installation.remove()


class Installation:
    """What is changed in torch, and how to change it back.

    Args:
        to: where torch's records and the facts go.
        ticks: asked which of the agent's metric points are recorded; None for all.
    """

    def __init__(self, to: Recording, ticks: "Ticks | None" = None) -> None:
        self.repair: Repair = Repair(parse)
        self.exit_codes: dict[int, int] = {}  #: of workers that have ended, by pid, as `subprocess` has them
        self._to: Recording | None = to
        self._ticks = ticks
        self._lock = threading.RLock()  # rendezvous events come from three threads
        self._undo: list[Callable[[], object]] = []

    def install(self) -> None:
        """Change torch."""
        from torch.distributed.elastic import events, metrics
        from torch.distributed.elastic.events import handlers

        self._replace_item(handlers._log_handlers, "elastic", _Handler(self.event))
        gate = handlers._log_handlers.get("dynamic_rendezvous")
        if gate is None or isinstance(gate, logging.NullHandler):
            # Torch makes no rendezvous event while this is a NullHandler.
            self._replace_item(handlers._log_handlers, "dynamic_rendezvous", _Handler(self.event))
        self._route_events(events)
        self._route_rendezvous(events)
        self._route_metrics(metrics)
        self._undo.append(watch(self))

    def remove(self) -> None:
        """Change torch back, last change first."""
        self._to = None
        while self._undo:
            self._undo.pop()()

    def redirect(self, to: Recording) -> None:
        """Let records go elsewhere from now on. For a forked child: whoever held our lock is not in it."""
        self._lock = threading.RLock()
        self._to = to

    # --- what torch hands over ---

    @shielded
    def event(self, text: str) -> None:
        """Take one serialized event or rendezvous event."""
        from elastic_events.api import Event, RdzvEvent

        to = self._to
        if to is None:
            return
        fields = json.loads(text)
        if "node_state" in fields:
            to.record_rdzv_event(RdzvEvent(**fields))
            self.advance(self.repair.rendezvous, fields["message"], fields.get("local_id"))
            return
        metadata = fields.get("metadata") or {}
        detail = unpack(metadata)
        # Torch's keys stay as they are; what it packed as JSON within JSON stands beside them.
        kept = {**metadata, "unpacked": detail} if detail else metadata
        to.record(Event(fields["name"], fields["source"], fields.get("timestamp") or 0, kept))
        self.advance(self.repair.event, fields["name"], fields["source"], metadata)

    @shielded
    def metric(self, name: str, value: Any, group: str) -> None:
        """Take one metric point."""
        to = self._to
        if to is not None and (self._ticks is None or self._ticks.passes(name, value, time.monotonic_ns())):
            to.put_metric(name, value, group)

    @shielded
    def advance(self, step: Callable[..., list[Fact]], *args: Any) -> None:
        """Let the repair take a step, and record what follows from it."""
        from elastic_events.api import Event, EventSource

        with self._lock:
            to = self._to
            if to is None:
                return
            for fact in step(*args):
                to.record(Event(fact.name, EventSource.AGENT, metadata=fact.metadata))

    # --- changes ---

    def _route_events(self, events: Any) -> None:
        """Replace the look-up of the logger: torch's level, `logging.disable` and `dictConfig` drop events silently."""
        original = events._get_or_create_logger

        def lookup(destination: str = "null") -> Any:
            handler = events.get_logging_handler(destination)  # an unknown one raises here, as in torch
            ours = isinstance(handler, _Handler | logging.NullHandler)
            return _Tee(self.event, None if ours else original(destination))

        self._replace(events, "_get_or_create_logger", lookup)

    def _route_rendezvous(self, events: Any) -> None:
        """Name the caller of a rendezvous event by its frame: `inspect.stack` reads every source file on the way."""
        from torch.distributed.elastic.rendezvous import c10d_rendezvous_backend, dynamic_rendezvous

        @shielded
        def construct(
            run_id: str,
            message: str,
            node_state: Any,
            name: str = "",
            hostname: str = "",
            pid: int | None = None,
            master_endpoint: str = "",
            local_id: int | None = None,
            rank: int | None = None,
        ) -> None:
            code = sys._getframe(2).f_code  # of whoever called what `shielded` made of this
            failed = node_state == events.NodeState.FAILED
            events.record_rdzv_event(
                events.RdzvEvent(
                    name=f"{os.path.basename(code.co_filename)}:{name or code.co_name}",
                    run_id=run_id,
                    message=message,
                    hostname=hostname or os.uname().nodename,  # torch asks the name server here, and waits for it
                    pid=pid or os.getpid(),
                    node_state=node_state,
                    master_endpoint=master_endpoint,
                    rank=rank,
                    local_id=local_id,
                    error_trace=traceback.format_exc() if failed else "",
                )
            )

        name = "construct_and_record_rdzv_event"
        for module in (events, dynamic_rendezvous, c10d_rendezvous_backend):
            if hasattr(module, name):
                self._replace(module, name, construct)
        if hasattr(dynamic_rendezvous, "get_method_name"):
            self._replace(dynamic_rendezvous, "get_method_name", lambda depth=2: sys._getframe(depth).f_code.co_name)

    def _route_metrics(self, metrics: Any) -> None:
        api = metrics.api
        forward = self.metric

        class Forwarder(metrics.MetricHandler):  # type: ignore[misc]
            """Torch's handler of before gets its points as before."""

            def __init__(self, before: Any) -> None:
                self.before = None if isinstance(before, metrics.NullMetricHandler) else before

            def emit(self, metric_data: Any) -> None:
                forward(metric_data.name, metric_data.value, metric_data.group_name)
                if self.before is not None:
                    self.before.emit(metric_data)

        self._replace(api, "_default_metrics_handler", Forwarder(api._default_metrics_handler))
        for group, handler in list(api._metrics_map.items()):
            self._replace_item(api._metrics_map, group, Forwarder(handler))

    def _replace(self, owner: Any, name: str, value: Any) -> None:
        before = getattr(owner, name)
        setattr(owner, name, value)
        self._undo.append(lambda: setattr(owner, name, before))

    def _replace_item(self, table: dict[str, Any], key: str, value: Any) -> None:
        before = table.get(key)
        table[key] = value
        self._undo.append(lambda: table.pop(key) if before is None else table.update({key: before}))


class _Handler(logging.Handler):
    """For whoever asks torch for the handler itself; `record` does not come this way."""

    def __init__(self, forward: Callable[[str], object]) -> None:
        super().__init__()
        self.forward = forward

    def emit(self, record: logging.LogRecord) -> None:
        """Forward the text."""
        self.forward(record.msg)


class _Tee:
    """What torch takes for a logger."""

    def __init__(self, forward: Callable[[str], object], logger: Any) -> None:
        self.forward = forward
        self.logger = logger

    def info(self, text: str, *args: Any, **options: Any) -> None:
        """Forward `text`, then let the logger that torch would have asked have it."""
        self.forward(text)
        if self.logger is not None:
            self.logger.info(text, *args, **options)
