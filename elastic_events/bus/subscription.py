"""What a user gives to `subscribe()`: a handler, its filter and its options, checked at once."""

import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

from elastic_events.bus.backlog import Backlog, Overflow
from elastic_events.bus.errors import ConfigError
from elastic_events.bus.filter import Patterns, wanted
from elastic_events.bus.handler import BATCH, CallableSink, Handler, OnFailure, Sink, is_async
from elastic_events.bus.latest import Latest
from elastic_events.bus.record import Record
from elastic_events.bus.retry import NO_RETRY, Retry

#: Records in memory where a spool holds the others: few, so that a recorder still has them if this process is killed.
SPOOLED = 8192

#: Records in flight for each call that runs at the same time.
AHEAD = 16

__all__ = ("Subscription", "adapt", "check_url", "handler_name")


@dataclass(frozen=True, kw_only=True)
class Subscription:
    """One handler as its lane needs it; the options are those of `EventBus.subscribe`."""

    sink: Sink
    accepts: Callable[[Record], bool] | None  #: the filter as one predicate; None where every record is wanted
    batch_size: int
    batch_bytes: int
    linger: float
    timeout: float | None
    retry: Retry
    records: int  #: that may wait, events and metrics each; `bytes` likewise
    bytes: int
    overflow: Overflow
    dead_letters: Sink | None
    spool: Path | None  #: directory where the backlog goes on when memory is full
    on_failure: OnFailure
    concurrency: int
    key: Callable[[Record], Hashable] | None  #: whose records keep their order
    coalesce: Callable[[Record], Hashable] | None  #: of whose records only the latest is delivered

    PLAIN: ClassVar[dict[str, Any]]  #: the options of a user who gives none

    @classmethod
    def of(
        cls,
        handler: Handler,
        *,
        events: Patterns = True,
        metrics: Patterns | None = None,
        source: str | None = None,
        where: Callable[[Record], bool] | None = None,
        batch_size: int | None = None,
        batch_bytes: int = 4 * 2**20,
        linger: float = 0.0,
        timeout: float | None = 30.0,
        retry: Retry | None = None,
        backlog: int | None = None,
        backlog_bytes: int = 64 * 2**20,
        overflow: Overflow = "drop_oldest",
        dead_letters: Handler | None = None,
        rollup: float | str | None = None,
        spool: str | os.PathLike[str] | None = None,
        on_failure: OnFailure = "continue",
        concurrency: int = 1,
        key: Callable[[Record], Hashable] | None = None,
        coalesce: Callable[[Record], Hashable] | None = None,
        capacity: int = 0,
    ) -> Self:
        """Return the subscription of `handler` to a bus whose rings have `capacity` slots.

        Raises:
            ConfigError: the handler is of no known shape, or an option is wrong.
        """
        sink = adapt(handler, batches=batch_size is not None)
        grave = None if dead_letters is None else adapt(dead_letters, batches=True)
        if grave is None and isinstance(handler, str):
            from elastic_events.sinks.urls import open_dead_letters

            grave = open_dead_letters(handler)
        patient = isinstance(handler, Sink | str)
        if rollup is not None:
            from elastic_events.sinks.rollup import Rollup

            sink = Rollup(sink, every=rollup)
        if batch_size is None:
            batch_size = getattr(sink, "batch_size", BATCH if patient or rollup is not None else 1)
            if concurrency > 1:  # so many are in flight that a slow one keeps few of the others waiting
                batch_size = AHEAD * concurrency
        made = cls(
            sink=sink,
            accepts=wanted(events, metrics, source, where),
            batch_size=batch_size,
            batch_bytes=batch_bytes,
            linger=linger,
            timeout=timeout,
            retry=retry or (Retry() if patient else NO_RETRY),
            records=(max(65_536, capacity) if spool is None else SPOOLED) if backlog is None else backlog,
            bytes=backlog_bytes,
            overflow=overflow,
            spool=None if spool is None else Path(spool),
            dead_letters=grave,
            on_failure=on_failure,
            concurrency=concurrency,
            key=key,
            coalesce=coalesce,
        )
        made._check()
        behind = getattr(sink, "sink", sink)  # of a roll-up
        if hasattr(behind, "budget"):
            behind.budget = made.retry.budget
        return made

    def make_backlog(self) -> Backlog | Latest:
        """Return a backlog within the bounds of this subscription.

        Raises:
            ConfigError: the directory of the spool cannot be used, or is another lane's.
        """
        if self.coalesce is not None:
            return Latest(self.records, self.bytes, self.coalesce)
        if self.spool is None:
            return Backlog(self.records, self.bytes, self.overflow)
        from elastic_events.recorder.spool import Spool

        try:
            spool = Spool(self.spool)
        except OSError as error:
            raise ConfigError(f"the spool {self.spool} cannot be used: {error.strerror or error}") from error
        return Backlog(self.records, self.bytes, self.overflow, spool)

    def _check(self) -> None:
        for name, value in (
            *(("batch_size", self.batch_size), ("batch_bytes", self.batch_bytes)),
            *(("backlog", self.records), ("backlog_bytes", self.bytes)),
        ):
            if not value >= 1:
                raise ConfigError(f"{name} is 1 or more; it is {value!r}")
        if not self.linger >= 0:
            raise ConfigError(f"linger is 0 or more seconds; it is {self.linger!r}")
        if self.timeout is not None and not self.timeout > 0:
            raise ConfigError(f"timeout is more than 0 seconds, or None for no limit; it is {self.timeout!r}")
        if self.overflow not in get_args(Overflow):
            raise ConfigError(f"overflow is 'drop_oldest' or 'drop_newest', not {self.overflow!r}")
        if self.on_failure not in get_args(OnFailure):
            raise ConfigError(f"on_failure is 'continue' or 'raise', not {self.on_failure!r}")
        if self.coalesce is not None and (self.spool is not None or self.overflow != "drop_oldest"):
            raise ConfigError("coalesce keeps the latest record of each key in memory: leave out spool and overflow")
        alone = isinstance(self.sink, CallableSink) and not self.sink.batches
        if self.concurrency < 1 or (self.concurrency > 1 and not alone):
            raise ConfigError("concurrency is 1, or more for an async function of one record")


Subscription.PLAIN = dict(Subscription.of.__kwdefaults__ or {})


def adapt(handler: Handler, *, batches: bool) -> Sink:
    """Return `handler` as a sink.

    Raises:
        ConfigError: it is of no known shape.
    """
    # Imported where they are used: a process that names no sink does not pay for them.
    if isinstance(handler, str):
        from elastic_events.sinks.urls import open_url

        return open_url(handler)
    if not isinstance(handler, type):
        if isinstance(handler, Sink):
            return handler
        from elastic_events.handlers import as_sink

        sink = as_sink(handler)
        if sink is not None:
            return sink
        if callable(handler) and not is_async(handler):
            raise ConfigError(
                f"{handler!r} is no async function: write `async def`, and what blocks into `anyio.to_thread.run_sync`"
            )
        if callable(handler):
            return CallableSink(handler, batches=batches)
    raise ConfigError(
        f"{handler!r} is no handler: give an async function, a Sink, a MetricHandler, a logging.Handler or a sink's URL"
    )


def check_url(url: str) -> None:
    """Say what is wrong with a sink's URL where somebody reads it, though another process opens it. Opens nothing.

    Raises:
        ConfigError: it names no sink, or a file that cannot be.
        MissingExtra: the sink needs a package that is not installed.
    """
    from elastic_events.sinks.urls import open_dead_letters, open_url

    for sink in (open_url(url), open_dead_letters(url)):
        check = getattr(sink, "check", None)
        if check is not None:
            check()


def handler_name(handler: Handler) -> str:
    """Return the name of a lane for `handler` when the user gives none."""
    name = getattr(handler, "name", None) or getattr(handler, "__name__", None)
    if isinstance(handler, str):
        name = handler.partition(":")[0]
    return str(name or type(handler).__name__)
