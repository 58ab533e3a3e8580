"""Prometheus: what the launcher knows of all workers, as an endpoint to scrape."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any
from urllib.parse import SplitResult

from elastic_events.bus.errors import ConfigError, MissingExtra, PermanentError
from elastic_events.bus.fork import every_bus
from elastic_events.bus.ledger import BusStats
from elastic_events.bus.record import Record
from elastic_events.bus.sink_thread import SinkThread
from elastic_events.sinks.options import Options
from elastic_events.sinks.prometheus_serve import Endpoint, Fresh
from elastic_events.sinks.prometheus_text import RANK, Rank, Series, Spread, labelled, small_family, whole_family

__all__ = ("BUCKETS", "PrometheusSink", "from_url")

#: Where OpenTelemetry's own Prometheus exporter listens.
PORT = 9464

#: Upper bounds of the histograms: 1, 2.5 and 5 in each decade, since a loss and a step time in ms share them.
BUCKETS = tuple(digit * 10.0**decade for decade in range(-3, 5) for digit in (1.0, 2.5, 5.0))

#: Names, events and ranks that have series of their own, at most.
NAMES = 2000

#: The name under which everything beyond the cap is summed up.
OVERFLOW = "__overflow__"


class PrometheusSink:
    """Keeps last value, count and histogram of each metric, and event counts, and serves them over HTTP.

    | series | labels |
    |---|---|
    | `elastic_metric_value`, `elastic_metric_points_total` | name, group, run, rank |
    | `elastic_metric_distribution`, over all ranks | name, group, run |
    | `elastic_rank_last_step`, `elastic_rank_step_seconds`, `elastic_rank_restarts` | run, rank |
    | `elastic_rank_last_record_timestamp_seconds`: the last sign of life | run, rank |
    | `elastic_rank_productive_seconds_total`: in finished steps, each counted once | run, rank |
    | `elastic_events_total` | name, source, run |
    | `elastic_lane_*`, from the bus's own ledger | lane; dropped and failed: reason too |
    | `elastic_overflow_total`: records that went to the overflow series | kind |

    Delivered means: counted in this process. What is not scraped before the process ends is gone, and so is the endpoint
    (F45). Values that are not finite count, and show as last value, but are in no histogram.

    After a restart with fewer ranks, those that are no more show no last value and none of `elastic_rank_*`.

    A scrape gets a text that is a second old at most, rendered in a thread of the endpoint's own, however many ask.

    One process exposes, the launcher: it collects all workers' records. A forked child counts, and exposes nothing.

    Args:
        port: to listen on; 0 for any free one, then `port` says which once open.
        host: to listen on; only this machine by default: an endpoint has no login.
        max_series: metric series of names and ranks, at most, of which 2,000 names and as many of events and ranks; what is
            beyond shares the series `__overflow__` (F62).
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
        max_series: int = 50_000,
        buckets: Iterable[float] = BUCKETS,
        stats: Callable[[], BusStats] | None = None,
    ) -> None:
        self.port: int = port
        self.host = host
        self.max_series = max_series
        self.stats = stats
        try:
            self._client = import_module("prometheus_client")
            self._families = import_module("prometheus_client.core")
            self._go_float = import_module("prometheus_client.utils").floatToGoString
        except ImportError:
            raise MissingExtra("Prometheus", "prometheus") from None
        #: A registry of its own: nothing of ours in the user's, nothing of theirs in ours.
        self.registry: Any = self._client.CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        self._buckets = sorted(buckets)
        # Written by the drain, read by a scrape without a lock, which the drain would wait for: a scrape may see the count of
        # before a point beside the value of after it.
        self._metrics: dict[tuple[str, ...], Series] = {}
        self._spreads: dict[tuple[str, ...], Spread] = {}
        self._ranks: dict[tuple[str, int], Rank] = {}
        self._worlds: dict[str, tuple[int, int]] = {}  # run -> when its newest record was made, and its world size
        self._events: dict[tuple[str, ...], int] = {}
        self._overflowed = {"event": 0, "metric": 0, "rank": 0}
        self._thread: SinkThread | None = None
        self._server: Endpoint | None = None
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
        self._thread = SinkThread("elastic-events prometheus")
        try:
            await self._thread.run(self._listen)
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
        for record in records:
            if record.context.rank is not None and record.kind != "ledger":
                self._sign_of_life(record)
            if record.kind == "metric":
                if not self._point(record):
                    strange.append(record)
            elif record.kind != "ledger":
                self._event(record)
        if strange:
            raise PermanentError("a metric's value is no number, which is all that Prometheus can hold", strange)

    async def aclose(self) -> None:
        """Stop listening."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await thread.run(self._stop)
            thread.close()

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
        series = self._metrics.get(key) or self._new_series(key)
        series.add(value, self._buckets)
        return True

    def _new_series(self, key: tuple[str, ...]) -> Series:
        # A place is kept for the overflow itself, so that the cap is the cap.
        known = key[:3] in self._spreads or len(self._spreads) < NAMES - 1
        if not known or len(self._metrics) >= self.max_series - 1:
            self._overflowed["metric"] += 1
            key = (OVERFLOW, "", "", "")
            if key in self._metrics:
                return self._metrics[key]
        spread = self._spreads.get(key[:3]) or Spread(key[:3], len(self._buckets))
        series = self._metrics[key] = Series(key, spread)
        self._spreads[key[:3]] = spread
        return series

    def _sign_of_life(self, record: Record) -> None:
        key = (record.context.run_id, record.context.rank or 0)
        rank = self._ranks.get(key)
        if rank is None:
            if len(self._ranks) >= max(NAMES, self.max_series):
                self._overflowed["rank"] += 1
                return
            rank = self._ranks[key] = Rank(*key)
        rank.see(record)
        size = record.context.world_size
        if size is not None and record.time_ns >= self._worlds.get(key[0], (0, 0))[0]:
            self._worlds[key[0]] = (record.time_ns, size)
            if len(self._worlds) > NAMES:
                del self._worlds[min(self._worlds, key=self._worlds.__getitem__)]

    def _is_gone(self, run: str, rank: str | int) -> bool:
        """Whether the run goes on with fewer ranks, after a restart: one that is no more is neither quiet nor slow."""
        world = self._worlds.get(run)
        return world is not None and rank != "" and int(rank) >= world[1]

    def _event(self, record: Record) -> None:
        source = str(record.fields[0]) if record.kind == "event" else "RDZV"
        key = (str(record.name), source, record.context.run_id)
        if key not in self._events and len(self._events) >= min(NAMES, self.max_series) - 1:
            self._overflowed["event"] += 1
            key = (OVERFLOW, "", "")
        self._events[key] = self._events.get(key, 0) + 1

    # --- a scrape: called in the endpoint's threads ---

    def describe(self) -> list[Any]:
        """Return nothing: what is collected is known at the scrape only."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield the metric families, for a registry."""
        from prometheus_client.parser import text_string_to_metric_families

        yield from text_string_to_metric_families("".join(self.render()))

    def render(self) -> Iterator[str]:
        """Yield all series in the text format, some hundred lines at a time."""
        series, spreads = list(self._metrics.values()), list(self._spreads.values())
        alive = [one for key, one in list(self._metrics.items()) if not self._is_gone(*key[2:])]
        ranks = [rank for key, rank in list(self._ranks.items()) if not self._is_gone(*key)]
        events = list(self._events.items())
        number = self._go_float
        yield from whole_family("elastic_metric_value", "gauge", "Last value.", (one.value(number) for one in alive))
        yield from whole_family(
            "elastic_metric_points_total", "counter", "Points seen.", (one.points() for one in series)
        )
        bounds = [*map(number, self._buckets), "+Inf"]
        name = "elastic_metric_distribution"
        yield from whole_family(
            name, "histogram", "Finite values of all ranks.", (one.lines(bounds, number) for one in spreads)
        )
        for what, text in RANK.items():
            lines = (line for rank in ranks if (line := rank.line(what, number)))
            kind = "counter" if what.endswith("_total") else "gauge"
            yield from whole_family(f"elastic_rank_{what}", kind, text, lines)
        counts = (
            labelled("elastic_events_total", {"name": key[0], "source": key[1], "run": key[2]}) + f"{count}.0\n"
            for key, count in events
        )
        yield from whole_family("elastic_events_total", "counter", "Events seen.", counts)
        lost = (labelled("elastic_overflow_total", {"kind": kind}) + f"{n}.0\n" for kind, n in self._overflowed.items())
        yield from whole_family("elastic_overflow_total", "counter", "Records in no series of their own.", lost)
        for family in self._ledger():
            yield small_family(family)

    def _ledger(self) -> Iterator[Any]:
        if self.stats is None:
            return
        lanes = self.stats().lanes
        for name, what, kind in _LEDGER:
            family_class = self._families.CounterMetricFamily if kind else self._families.GaugeMetricFamily
            family = family_class(f"elastic_lane_{name}", what, labels=["lane"])
            for lane, stats in lanes.items():
                family.add_metric([lane], getattr(stats, name))
            yield family
        for name, what, field in _LOSSES:
            family = self._families.CounterMetricFamily(f"elastic_lane_{name}", what, labels=["lane", "reason"])
            for lane, stats in lanes.items():
                for reason, count in getattr(stats, field).items():
                    family.add_metric([lane, reason], count)
            yield family

    # --- the endpoint: called in its thread ---

    def _listen(self) -> None:
        self._server = Endpoint(self.host, self.port, Fresh(self.render))
        self.port = self._server.server_port

    def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _drop_inherited(self) -> None:
        """Close the child's copy of the listening socket: it would keep the port taken after the parent's end."""
        self._thread = None
        if self._server is not None:
            self._server.socket.close()
            self._server = None

    def _find_bus(self) -> Callable[[], BusStats] | None:
        for bus in every_bus():
            for lane in bus._drain.lanes:  # noqa: SLF001 - which lane is its own, no user asks
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
    max_series = options.integer("max_series", 50_000) or 50_000
    options.finish()
    return PrometheusSink(PORT if port is None else port, url.hostname or "127.0.0.1", max_series=max_series)


#: Field of `LaneStats`, what it says, whether it only grows.
_LEDGER = (
    ("accepted", "Records emitted while the lane was subscribed.", True),
    ("delivered", "Records its handler took.", True),
    ("lost", "Records that failed, and that were dropped.", True),
    ("filtered", "Records it does not want.", True),
    ("retries", "Attempts after a first failed one.", True),
    ("dead_lettered", "Failed records kept in the dead letters.", True),
    ("pending", "Records on their way.", False),
    ("backlog_bytes", "Bytes of the backlog, in memory and on disk.", False),
)

#: Name of the series, what it says, field of `LaneStats` with the counts by reason.
_LOSSES = (
    ("dropped", "Records lost before the handler saw them.", "dropped"),
    ("failed", "Records its handler refused, by the error's name.", "failed_by"),
)
