"""One run that a collector serves: a lane for each sink that was asked for, and what it says of them."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import anyio
import msgspec

from elastic_events.bus.bus import EventBus
from elastic_events.bus.context import COLLECTOR, read_context
from elastic_events.bus.errors import ElasticEventsError
from elastic_events.bus.handler import Sink
from elastic_events.bus.lane import Lane
from elastic_events.bus.record import Record
from elastic_events.bus.redact import cut_secrets
from elastic_events.bus.retry import Retry
from elastic_events.bus.tell import Told
from elastic_events.bus.text import both_ends
from elastic_events.recorder.directory import SPOOL, secure
from elastic_events.recorder.page import LaneLedger
from elastic_events.recorder.request import VARIABLES, Request
from elastic_events.sinks.urls import open_dead_letters, open_url

__all__ = ("IDLE", "LAST_WORDS", "Run")

#: Seconds between two looks while nothing comes.
IDLE = 0.25

#: Seconds that a sink may take to write the rest and its ledger when its run is over.
LAST_WORDS = 5.0

#: Characters of an error in the ledgers of the page.
ERROR = 1000

#: A sink that is away is a delay, never a reason to give up: what it refuses is another matter.
FOREVER = Retry(budget=float("inf"), cap=2.0)


class RunBus(EventBus):
    """A bus that says what it has to say to a person to its writers."""

    def __init__(self, say: Callable[[str, str], object], **options: Any) -> None:
        self._say = say
        super().__init__(**options)

    def _teller(self) -> Told:
        return _ToldElsewhere(self._say)

    def _say_lost(self) -> None:
        """Say nothing: the last writer does, from the ledgers on the page."""


class _ToldElsewhere(Told):
    """Tells the collector, which tells its writers."""

    def __init__(self, tell: Callable[[str, str], object]) -> None:
        super().__init__()
        self._tell = tell

    def say(self, sentence: str) -> None:
        """Say a sentence."""
        self._tell("", sentence)


class Late:
    """The sink of a URL that cannot be read here yet: its package is missing, say. A delay, told by its lane."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._sink: Sink | None = None

    async def open(self) -> None:
        """Try again."""
        _take_environment(self._request.environ)
        self._sink = open_url(self._request.url)
        await self._sink.open()

    async def write(self, records: Sequence[Record]) -> None:
        """Deliver."""
        assert self._sink is not None
        await self._sink.write(records)

    async def aclose(self) -> None:
        """Close what was opened."""
        if self._sink is not None:
            await self._sink.aclose()


class Run:
    """The lanes of one run: a bus whose records all come from recorder files."""

    def __init__(self, run_id: str, directory: Path, say: Callable[[str, str], object]) -> None:
        self.run_id = run_id
        self.lanes: dict[int, Lane] = {}
        self.requests: dict[int, Request] = {}
        self.ledgers: tuple[LaneLedger, ...] = ()  #: as they were when the bus was closed
        self._spools = directory / SPOOL
        context = msgspec.structs.replace(read_context({}), run_id=run_id or "none", role=COLLECTOR)
        self.bus: RunBus = RunBus(say, context=context, interval=IDLE, timeout=LAST_WORDS, recorder=False)
        self.closing = False
        self.used = False  #: a file has come for it
        self.since: float = time.monotonic()
        self._over = anyio.Event()
        self._closed = anyio.Event()

    @property
    def over(self) -> bool:
        """Whether its last words are written."""
        return self._closed.is_set()

    async def serve(self, *, task_status: Any) -> None:
        """Keep the bus open until `close`."""
        async with self.bus:
            task_status.started()
            await self._over.wait()
        self.ledgers = tuple(self._standing(over=True))
        self._closed.set()

    def add(self, request: Request) -> Lane:
        """Make a lane for `request`. Never raises for what is wrong with its URL, or with its spool."""
        sink: Sink
        grave: Sink | None = None
        _take_environment(request.environ)
        try:
            sink = open_url(request.url)
            grave = open_dead_letters(request.url, {})  # who asked put those of its environment into the URL
        except ElasticEventsError:
            sink = Late(request)
        name = request.url.partition(":")[0]
        try:
            secure(self._spools)
            spool = self._spools / f"{request.key:016x}"
            lane = self.bus.subscribe(sink, name=name, retry=FOREVER, dead_letters=grave, spool=spool)
        except (ElasticEventsError, OSError):  # no room on the disk: in memory, then
            lane = self.bus.subscribe(sink, name=name, retry=FOREVER, dead_letters=grave)
        own = cast("Lane", lane)  # of this process: it is no URL that is given
        self.lanes[request.key], self.requests[request.key] = own, request
        return own

    def outlet(self, run_id: str, keys: set[int]) -> list[Lane]:
        """Return the lanes for a file of the run `run_id` that names the requests `keys`."""
        every = self.run_id in ("", run_id)
        return [lane for key, lane in self.lanes.items() if key in keys or (every and self.requests[key].everyone)]

    @property
    def settled(self) -> bool:
        """Whether nothing waits in any lane."""
        return all(not lane.unsettled for lane in self.lanes.values())

    async def close(self, timeout: float) -> None:
        """Let the lanes deliver what is left within `timeout` seconds; the rest stays in their spools."""
        self.bus.timeout = timeout
        self._over.set()
        await self._closed.wait()

    def standing(self) -> tuple[LaneLedger, ...]:
        """Return the ledgers of the lanes."""
        return self.ledgers or tuple(self._standing())

    def _standing(self, *, over: bool = False) -> Iterator[LaneLedger]:
        for key, lane in self.lanes.items():
            every = self.requests[key].everyone
            stats = lane.stats()
            if len(stats.last_error) > ERROR:  # a server's answer may be a page, and the page has room for all lanes
                stats = stats._replace(last_error=both_ends(cut_secrets(stats.last_error), ERROR))
            yield LaneLedger(lane.name, self.run_id, key, every, stats._asdict(), over)


def _take_environment(environ: Mapping[str, str]) -> None:
    """Have what sinks read of the environment as the program has it that asked, and nothing else of the kind.

    For good: libraries read it when they write. A process has one environment: where programs differ, the last one counts.
    """
    for name in [name for name in os.environ if name.startswith(VARIABLES)]:
        del os.environ[name]
    os.environ.update(environ)
