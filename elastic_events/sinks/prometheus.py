"""Prometheus: what the launcher knows of all workers, as an endpoint to scrape."""

import math
import os
import socket
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any
from urllib.parse import SplitResult
from wsgiref.simple_server import WSGIRequestHandler, make_server

from elastic_events.bus.bus import buses
from elastic_events.bus.errors import ConfigError, MissingExtra, PermanentError
from elastic_events.bus.ledger import BusStats
from elastic_events.bus.record import Record
from elastic_events.bus.worker import Worker
from elastic_events.sinks.options import Options

__all__ = ("BUCKETS", "PrometheusSink", "from_url")

#: Where OpenTelemetry's own Prometheus exporter listens.
PORT = 9464

#: Upper bounds of the histograms: 1, 2.5 and 5 in each decade, since a loss and a step time in ms share them.
BUCKETS = tuple(digit * 10.0**decade for decade in range(-3, 5) for digit in (1.0, 2.5, 5.0))

#: The name under which everything beyond the cap is summed up.
OVERFLOW = "__overflow__"


class PrometheusSink:
    """Keeps last value, count and histogram of each metric, and event counts, and serves them over HTTP.

    | series | labels |
    |---|---|
    | `elastic_metric_value`, `elastic_metric_points_total`, `elastic_metric_distribution` | name, group, run, rank |
    | `elastic_events_total` | name, source, run |
    | `elastic_lane_*`, from the bus's own ledger | lane; dropped: reason too |
    | `elastic_overflow_total`: records that went to the overflow series | kind |

    Delivered means: counted in this process. What is not scraped before the process ends is gone, and so is the endpoint
    (F45). Values that are not finite count, and show as last value, but are in no histogram.

    One process exposes, the launcher: it collects all workers' records. A forked child counts, and exposes nothing.

    Args:
        port: to listen on; 0 for any free one, then `port` says which once open.
        host: to listen on; only this machine by default: an endpoint has no login.
        max_series: metric series, and event series, at most; further names share the series `__overflow__` (F62).
        buckets: upper bounds of the histograms, ascending.
        stats: what gives the ledger to show; by default the bus that this sink is subscribed to.

    Raises:
        MissingExtra: prometheus_client is not installed.
    """

    name = "prometheus"

    def __init__(
        self,
        port: int = PORT,
        host: str = "127.0.0.1",
        *,
        max_series: int = 2000,
        buckets: Iterable[float] = BUCKETS,
        stats: Callable[[], BusStats] | None = None,
    ) -> None:
        self.port = port
        self.host = host
        self.max_series = max_series
        self.stats = stats
        try:
            self._client = import_module("prometheus_client")
            self._families = import_module("prometheus_client.core")
            self._exposition = import_module("prometheus_client.exposition")
            self._go_float = import_module("prometheus_client.utils").floatToGoString
        except ImportError:
            raise MissingExtra("Prometheus", "prometheus") from None
        #: A registry of its own: nothing of ours in the user's, nothing of theirs in ours.
        self.registry = self._client.CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        self._buckets = sorted(buckets)
        self._lock = threading.Lock()  # between the drain and a scrape, never near an emitter
        self._metrics: dict[tuple[str, ...], _Series] = {}
        self._events: dict[tuple[str, ...], int] = {}
        self._overflowed = {"event": 0, "metric": 0}
        self._worker: Worker | None = None
        self._server: tuple[Any, threading.Thread] | None = None
        self._pid: int | None = None

    async def open(self) -> None:
        """Listen.

        Raises:
            ConfigError: the port is taken.
        """
        if self._pid not in (None, os.getpid()):
            self._drop_inherited()
            return
        self._pid = os.getpid()
        self.stats = self.stats or self._find_bus()
        self._worker = Worker("elastic-events prometheus")
        try:
            await self._worker.run(self._listen)
        except OSError as error:
            raise ConfigError(
                f"Prometheus: cannot listen on {self.host}:{self.port}: {error.strerror or error}; "
                "write prometheus://HOST:PORT with another one, or port 0 for any"
            ) from None

    async def write(self, records: Sequence[Record]) -> None:
        """Count the records.

        Raises:
            PermanentError: a metric's value is no number; the others are counted.
        """
        strange = []
        with self._lock:
            for record in records:
                if record.kind == "metric":
                    if not self._point(record):
                        strange.append(record)
                elif record.kind != "ledger":
                    self._event(record)
        if strange:
            raise PermanentError("a metric's value is no number, which is all that Prometheus can hold", strange)

    async def aclose(self) -> None:
        """Stop listening."""
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.run(self._stop)
            worker.close()

    def __repr__(self) -> str:
        return f"<PrometheusSink {self.host}:{self.port}, {len(self._metrics)} metric series>"

    # --- counting ---

    def _point(self, record: Record) -> bool:
        try:
            value = float(record.fields[0]) if isinstance(record.fields[0], int | float) else None
        except OverflowError:
            value = None
        if value is None:
            return False
        rank = "" if record.context.rank is None else str(record.context.rank)
        key = (str(record.name), str(record.channel), record.context.run_id, rank)
        series = self._metrics.get(key)
        if series is None:
            # A place is kept for the overflow itself, so that the cap is the cap.
            if len(self._metrics) >= self.max_series - 1:
                self._overflowed["metric"] += 1
                key = (OVERFLOW, "", "", "")
            series = self._metrics.setdefault(key, _Series([0] * (len(self._buckets) + 1)))
        series.add(value, self._buckets)
        return True

    def _event(self, record: Record) -> None:
        source = str(record.fields[0]) if record.kind == "event" else "RDZV"
        key = (str(record.name), source, record.context.run_id)
        if key not in self._events and len(self._events) >= self.max_series - 1:
            self._overflowed["event"] += 1
            key = (OVERFLOW, "", "")
        self._events[key] = self._events.get(key, 0) + 1

    # --- a scrape: called in the endpoint's threads ---

    def describe(self) -> list[Any]:
        """Return nothing: what is collected is known at the scrape only."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield the metric families."""
        labels = ["name", "group", "run", "rank"]
        last = self._families.GaugeMetricFamily("elastic_metric_value", "Last value.", labels=labels)
        points = self._families.CounterMetricFamily("elastic_metric_points", "Points seen.", labels=labels)
        spread = self._families.HistogramMetricFamily("elastic_metric_distribution", "Finite values.", labels=labels)
        events = self._families.CounterMetricFamily("elastic_events", "Events seen.", labels=["name", "source", "run"])
        overflow = self._families.CounterMetricFamily(
            "elastic_overflow", "Records in the overflow series.", labels=["kind"]
        )
        with self._lock:
            metrics = [(key, series.copy()) for key, series in self._metrics.items()]
            counts = list(self._events.items())
            overflowed = list(self._overflowed.items())
        bounds = [*map(self._go_float, self._buckets), "+Inf"]
        for key, series in metrics:
            last.add_metric(key, series.last)
            points.add_metric(key, series.count)
            spread.add_metric(key, series.cumulative(bounds), series.total)
        for key, count in counts:
            events.add_metric(key, count)
        for kind, count in overflowed:
            overflow.add_metric([kind], count)
        yield from (last, points, spread, events, overflow)
        yield from self._ledger()

    def _ledger(self) -> Iterator[Any]:
        if self.stats is None:
            return
        lanes = self.stats().lanes
        dropped = self._families.CounterMetricFamily(
            "elastic_lane_dropped", "Records lost before the handler saw them.", labels=["lane", "reason"]
        )
        for name, what, kind in _LEDGER:
            family_class = self._families.CounterMetricFamily if kind else self._families.GaugeMetricFamily
            family = family_class(f"elastic_lane_{name}", what, labels=["lane"])
            for lane, stats in lanes.items():
                family.add_metric([lane], getattr(stats, name))
            yield family
        for lane, stats in lanes.items():
            for reason, count in stats.dropped.items():
                dropped.add_metric([lane, reason], count)
        yield dropped

    # --- the endpoint: called in the worker's thread ---

    def _listen(self) -> None:
        class Server(self._exposition.ThreadingWSGIServer):  # type: ignore[name-defined, misc]
            address_family = socket.AF_INET6 if ":" in self.host else socket.AF_INET

        app = self._client.make_wsgi_app(self.registry)
        server = make_server(self.host, self.port, app, Server, _Quiet)
        # Half the default: a closing lane waits for this loop to look up.
        thread = threading.Thread(target=server.serve_forever, args=(0.2,), name="elastic-events scrape", daemon=True)
        thread.start()
        self._server = server, thread
        self.port = server.server_port

    def _stop(self) -> None:
        if self._server is not None:
            server, thread = self._server
            server.shutdown()
            server.server_close()
            thread.join(1.0)
            self._server = None

    def _drop_inherited(self) -> None:
        """Close the child's copy of the listening socket: it would keep the port taken after the parent's end."""
        self._worker = None
        self._lock = threading.Lock()
        if self._server is not None:
            self._server[0].socket.close()
            self._server = None

    def _find_bus(self) -> Callable[[], BusStats] | None:
        for bus in list(buses):
            for lane in bus.lanes:
                if self in (lane.sink, getattr(lane.sink, "sink", None)):  # itself, or behind a roll-up
                    return bus.stats
        return None


def from_url(url: SplitResult) -> PrometheusSink:
    """Return the sink of `prometheus:` or `prometheus://HOST:PORT[?max_series=N]`; 127.0.0.1:9464 by default.

    Raises:
        ConfigError: the URL is wrong, and how.
    """
    options = Options(url)
    try:
        port = url.port
    except ValueError:
        raise ConfigError("prometheus: the port is a number from 0 to 65535") from None
    if url.path.strip("/") or "@" in url.netloc:
        raise ConfigError(
            "prometheus: write prometheus: or prometheus://HOST:PORT; every path is served, without login"
        )
    max_series = options.integer("max_series", 2000) or 2000
    options.finish()
    return PrometheusSink(PORT if port is None else port, url.hostname or "127.0.0.1", max_series=max_series)


class _Quiet(WSGIRequestHandler):
    """Answers without a line on stderr for each scrape."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Series:
    """One metric of one rank."""

    __slots__ = ("buckets", "count", "last", "total")

    def __init__(self, buckets: list[int]) -> None:
        self.last = math.nan
        self.count = 0
        self.total = 0.0
        self.buckets = buckets

    def add(self, value: float, bounds: Sequence[float]) -> None:
        self.last = value
        self.count += 1
        if math.isfinite(value):  # one NaN would make the sum NaN for ever
            self.total += value
            self.buckets[bisect_left(bounds, value)] += 1

    def copy(self) -> "_Series":
        other = _Series(self.buckets.copy())
        other.last, other.count, other.total = self.last, self.count, self.total
        return other

    def cumulative(self, bounds: Sequence[str]) -> list[tuple[str, float]]:
        """Return the buckets as the exposition format has them: each includes those below."""
        running = 0
        found = []
        for bound, count in zip(bounds, self.buckets, strict=True):
            running += count
            found.append((bound, float(running)))
        return found


#: Field of `LaneStats`, what it says, whether it only grows.
_LEDGER = (
    ("accepted", "Records emitted while the lane was subscribed.", True),
    ("delivered", "Records its handler took.", True),
    ("failed", "Records its handler refused.", True),
    ("filtered", "Records it does not want.", True),
    ("retries", "Attempts after a first failed one.", True),
    ("dead_lettered", "Failed records kept in the dead letters.", True),
    ("pending", "Records on their way.", False),
    ("backlog_bytes", "Encoded size of the backlog.", False),
)
