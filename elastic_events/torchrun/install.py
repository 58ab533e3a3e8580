"""Torch's events, rendezvous events and metrics, routed to a bus with the facts that follow from them."""

import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from elastic_events.torchrun.agent import watch
from elastic_events.torchrun.messages import parse
from elastic_events.torchrun.repair import Fact, Repair, unpack
from elastic_events.torchrun.shield import shielded

if TYPE_CHECKING:
    from elastic_events.bus.bus import EventBus

__all__ = ("Installation", "install")

_UNDER_WAY = frozenset({"attempt.started", "attempt.ended", "rendezvous.failed", "job.failed"})


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

    Without a bus it keeps what torch hands over, each with its time, until `connect`.
    """

    def __init__(self, bus: "EventBus | None" = None) -> None:
        self.repair = Repair(parse)
        self.exit_codes: dict[int, int] = {}  #: of workers that have ended, by pid, as `subprocess` has them
        self.before_fork: Callable[[], object] | None = (
            None  #: called before the agent starts workers that are functions
        )
        self._bus = bus
        self._under_way: Callable[[], object] | None = None
        self._waiting: list[tuple[int, Callable[..., object], tuple[Any, ...]]] | None = [] if bus is None else None
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
        with self._lock:
            self._bus = self._waiting = None
        while self._undo:
            self._undo.pop()()

    def connect(self, bus: "EventBus", under_way: Callable[[], object]) -> None:
        """Hand what was kept to `bus`, under the times it came at, and from now on what comes.

        `under_way` is called after each group of facts that begins or ends something.
        """
        told: list[bool] = []
        with self._lock:
            self._bus, self._under_way = bus, lambda: told.append(True)
            waiting, self._waiting = self._waiting or [], None
            pipes = bus.emitter.events, bus.emitter.metrics
            try:
                for at, function, args in waiting:
                    bus.emitter.events, bus.emitter.metrics = (pipe and (*pipe[:3], partial(int, at)) for pipe in pipes)
                    function(*args)
            finally:
                bus.emitter.events, bus.emitter.metrics = pipes
            self._under_way = under_way
        if told:
            under_way()

    # --- what torch hands over ---

    @shielded
    def event(self, text: str) -> None:
        """Take one serialized event or rendezvous event."""
        self._take(self._event, text)

    @shielded
    def metric(self, name: str, value: Any, group: str) -> None:
        """Take one metric point."""
        self._take(self._metric, name, value, group)

    @shielded
    def tell(self, step: Callable[..., list[Fact]], *args: Any) -> None:
        """Let the repair take a step, and record what follows from it."""
        self._take(self._tell, step, *args)

    @shielded
    def starting(self, entrypoint: object) -> None:
        """The agent is about to start workers: a command, or a function, whose fork must meet no half-imported module."""
        if self.before_fork is not None and callable(entrypoint):
            self.before_fork()

    def _take(self, function: Callable[..., object], *args: Any) -> None:
        with self._lock:
            if self._waiting is not None:
                self._waiting.append((time.monotonic_ns(), function, args))
                return
        if self._bus is not None:
            function(*args)

    @shielded
    def _event(self, text: str) -> None:
        from elastic_events.api import Event, RdzvEvent

        fields = json.loads(text)
        if "node_state" in fields:
            self.bus.record_rdzv_event(RdzvEvent(**fields))
            self._tell(self.repair.rendezvous, fields["message"], fields.get("local_id"))
            return
        metadata = fields.get("metadata") or {}
        detail = unpack(metadata)
        # Torch's keys stay as they are; what it packed as JSON within JSON stands beside them.
        kept = {**metadata, "unpacked": detail} if detail else metadata
        self.bus.record(Event(fields["name"], fields["source"], fields.get("timestamp") or 0, kept))
        self._tell(self.repair.event, fields["name"], fields["source"], metadata)

    @shielded
    def _metric(self, name: str, value: Any, group: str) -> None:
        self.bus.put_metric(name, value, group)

    @shielded
    def _tell(self, step: Callable[..., list[Fact]], *args: Any) -> None:
        from elastic_events.api import Event, EventSource

        with self._lock:
            facts = step(*args)
            for fact in facts:
                self.bus.record(Event(fact.name, EventSource.AGENT, metadata=fact.metadata))
        if self._under_way is not None and any(fact.name in _UNDER_WAY for fact in facts):
            self._under_way()

    @property
    def bus(self) -> "EventBus":
        """Where the records go."""
        assert self._bus is not None
        return self._bus

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
