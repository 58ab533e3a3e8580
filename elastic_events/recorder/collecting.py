"""Collecting a directory in the event loop of a launcher's bus."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

import anyio

from elastic_events.bus.sink_thread import SinkThread
from elastic_events.bus.text import counted
from elastic_events.recorder.collector import LATER, OPENING, Collector, Heads

if TYPE_CHECKING:
    from elastic_events.bus.bus import EventBus

__all__ = ("Collecting",)

#: Share of a look that makes the next one follow at once.
FULL = 0.5


class Collecting:
    """A directory that a bus in an event loop collects: what `bus.collect` returns. A flush of the bus covers it."""

    def __init__(
        self, collector: Collector, *, interval: float, at_end: Callable[[Callable[[], object]], object]
    ) -> None:
        self.directory: Path = collector.directory
        self.interval = interval
        self._collector = collector
        self._at_end = at_end  # calls when every lane has ended
        self._thread = SinkThread("elastic-events collector")
        self._turn = anyio.Lock()  # a scan, in the thread, and a sweep, in the loop, are never at once
        self._over = False

    @classmethod
    def of(
        cls,
        bus: "EventBus",
        directory: str | os.PathLike[str],
        *,
        interval: float = 0.05,
        exit_code: Callable[[int], int | None] = lambda _pid: None,
    ) -> Self:
        """Return one that feeds every lane of `bus`, in the loop of which it is to run."""
        collector = Collector(
            Path(directory).absolute(), lambda _reader: (bus._drain.lanes, bus.record), bus.record, exit_code
        )
        mine = getattr(bus._rings[0], "path", None)
        if mine is not None:
            collector.skip.add(mine)
        return cls(collector, interval=interval, at_end=bus._drain.at_end.append)

    async def open(self) -> None:
        """Take the directory and feed what lies there.

        Raises:
            ConfigError: it cannot be used, or another launcher collects it.
        """
        await self._thread.run(self._collector.open)
        await self._thread.run(self._collector.scan)
        self._collector.sweep()

    async def run(self) -> None:
        """Collect until cancelled; then take a last look."""
        try:
            if not self._collector.is_open:
                # Shielded: a bus that closes at once is to have what lies there all the same.
                with anyio.move_on_after(OPENING, shield=True) as first_look:
                    await self.open()
                if first_look.cancelled_caught:  # a machine or a disk that is busy
                    await self.open()
            scan_at = 0.0
            while True:
                async with self._turn:
                    if anyio.current_time() >= scan_at:
                        try:
                            await self._thread.run(self._collector.scan)
                        except OSError as error:
                            if error.errno not in LATER:  # no descriptor left, say: the next turn looks again
                                raise
                        scan_at = anyio.current_time() + 4 * self.interval
                    filled = self._collector.sweep()
                # A sweep that found much may have left more, in rings that may overflow: look again at once.
                await anyio.sleep(0 if filled >= FULL else self.interval)
        finally:
            self.close()

    def mark(self) -> Heads:
        """Return how far each file is written now."""
        return self._collector.heads() if self._collector.is_open else {}

    async def flush(self, mark: Heads) -> None:
        """Feed all before `mark`, and of new files what they have; the lanes may have to make room for it."""
        if self._over or not self._collector.is_open:  # where it failed, what it has not fed is not delivered
            return
        async with self._turn:
            with suppress(OSError):  # `run` meets it, too
                await self._thread.run(self._collector.scan)
        mark |= {name: heads for name, heads in self._collector.heads().items() if name not in mark}
        while self.behind(mark) and not self._over:
            async with self._turn:
                moved = self._collector.sweep()
            await anyio.sleep(0 if moved else 0.005)

    def behind(self, mark: Heads) -> int:
        """Return how many records of before `mark` are not fed."""
        return self._collector.behind(mark)

    def close(self) -> None:
        """Take a last look; note what is delivered, and let the directory go, when every lane has ended."""
        self._over = True
        self._thread.close()
        if self._collector.is_open:
            self._collector.last_look()  # in this thread: at interpreter exit no other can be counted on (M4)
            self._at_end(self._collector.close)

    def abandon(self) -> None:
        """Let the directory go, though it is just being taken: `open` was cancelled."""
        self._over = True
        self._thread.soon(self._collector.close)
        self._thread.close()

    def __repr__(self) -> str:
        return f"<Collecting {self.directory}, {counted(len(self._collector.files), 'file')}>"
