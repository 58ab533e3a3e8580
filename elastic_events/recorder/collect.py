"""The launcher's side: tail the files of live processes, adopt those of dead ones, remove what is delivered."""

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio

from elastic_events.bus.bus import EventBus
from elastic_events.bus.errors import ConfigError, InputError
from elastic_events.bus.lane import Lane
from elastic_events.bus.record import Record
from elastic_events.bus.worker import Worker
from elastic_events.recorder.format import OtherVersionError
from elastic_events.recorder.writer import secure
from elastic_events.recorder.reader import RecorderReader, runs

__all__ = ("Collector", "collect")

#: Seconds that the first look at a directory may hold up a bus that closes.
OPENING = 1.0

#: Records of a sweep that make the next one follow at once.
FLOOD = 4096

#: Failures to open a file that say nothing about the file: the next scan tries again.
_LATER = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOENT}

#: Damaged files that are kept aside, a directory.
QUARANTINE = 16


@dataclass
class _File:
    reader: RecorderReader
    marks: list[tuple[dict[Lane, int], tuple[int, int]]] = field(default_factory=list)  # fed, and settled by when
    told: dict[str, int] = field(default_factory=dict)  # losses that were reported
    dead: bool = False
    ended: bool = False  # dead, and read to its end


class Collector:
    """Collects one directory into one bus. Synchronous; `collect` gives it its turns.

    A record counts as collected when every lane has delivered it or given it up; the file remembers how far that is, so
    that the next launcher repeats at most what was under way. Records keep their own context, id and times.

    Args:
        directory: where the workers record; made, private, if it is missing.
        bus: gets the records.
        exit_code: returns what a pid ended with, as `subprocess` has it (negative for a signal), or None.
    """

    def __init__(
        self, directory: Path, bus: EventBus, exit_code: Callable[[int], int | None] = lambda _pid: None
    ) -> None:
        self.directory = directory
        self.bus = bus
        self.damaged = 0
        self._exit_code = exit_code
        self._files: dict[str, _File] = {}
        self._foreign: set[str] = set()  # files of other versions whose processes live
        self._lock = -1
        self._scanning = threading.Lock()  # at the end a scan may be under way in the thread
        self._over = False  # the last look was taken: what still waits in the thread does nothing

    def open(self) -> None:
        """Take the directory. The second call does nothing.

        Raises:
            ConfigError: it cannot be used, or another launcher collects it.
        """
        if self.is_open:
            return
        secure(self.directory)
        self._lock = os.open(
            self.directory / ".collector", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise ConfigError(
                f"{self.directory} is collected by another launcher: give each its own directory"
            ) from None

    @property
    def is_open(self) -> bool:
        """Whether the directory is ours."""
        return self._lock >= 0

    def close(self) -> None:
        """Note what the bus has delivered, and let the directory go."""
        for file in self._files.values():
            self._commit(file)
        if self.is_open:
            self._forget_delivered()
            os.close(self._lock)
            self._lock = -1

    def scan(self) -> None:
        """Look for new files, and for processes that have died; remove what is done with. For a thread: it does I/O."""
        with self._scanning:
            if not self._over:
                self._scan()

    def _scan(self) -> None:
        self._forget_delivered()
        for part in self.directory.glob(".*.ring.*.part"):  # left by one that was killed while it made its file
            if not runs(_process(part.name[1 : part.name.rindex(".ring")])):
                part.unlink(missing_ok=True)
        mine = getattr(self.bus.rings[0], "path", None)
        for path in sorted(self.directory.glob("*.ring")):
            if path.name in self._files or path == mine:
                continue
            try:
                self._files[path.name] = _File(RecorderReader(path, write=True))
            except InputError as error:
                if isinstance(error.__cause__, OtherVersionError) and runs(_process(path.stem)):
                    self._tell_foreign(path, error)
                elif getattr(error.__cause__, "errno", None) not in _LATER:
                    self._quarantine(path, error)
        for file in self._files.values():
            file.dead = file.dead or not file.reader.alive

    def sweep(self, *, last: bool = False) -> bool:
        """Feed what is new to the bus, note what was delivered, report the dead; return whether to go on at once.

        What no lane has room for stays in the files for now, where it is safe from everything but the worker's own haste;
        `last` feeds it all the same.
        """
        count, waiting = 0, False
        for name in list(self._files):
            file = self._files[name]
            self._commit(file)
            waiting = waiting or not (last or self._room())
            if not waiting:
                count += self._sweep(file)
                self._files[name] = self._files.pop(name)  # to the end: the next sweep begins where this one stopped
        return count >= FLOOD and not waiting

    def last_look(self) -> None:
        """Feed what came since the last turn: the bus is about to close, and delivers it within its deadline."""
        self._over = True
        if self._scanning.acquire(timeout=OPENING):  # not for ever: the thread may hang in a file system
            try:
                self._scan()
            finally:
                self._scanning.release()
        self.sweep(last=True)

    def _room(self) -> bool:
        """Whether some lane could take more: the others lose by their own slowness."""
        return any(2 * len(lane.backlog) < lane.backlog.records for lane in self.bus.lanes) or not self.bus.lanes

    def _forget_delivered(self) -> None:
        for name in [name for name, file in self._files.items() if file.ended and not file.marks]:
            self._files.pop(name).reader.path.unlink(missing_ok=True)

    def _sweep(self, file: _File) -> int:
        if file.ended:
            return 0
        records = list(file.reader.all_dead()) if file.dead else file.reader.look()
        if file.dead and not file.reader.closed:
            records.append(self._death(file))
        if records:
            file.marks.append((self.bus.feed(records), file.reader.positions))
        self._tell_losses(file)
        file.ended = file.dead
        return len(records)

    def _commit(self, file: _File) -> None:
        settled = None
        while file.marks and self.bus.is_settled(file.marks[0][0]):
            settled = file.marks.pop(0)[1]
        if settled is not None:
            file.reader.commit(settled)

    def _tell_losses(self, file: _File) -> None:
        for reason, count in file.reader.lost.items():
            new = count - file.told.get(reason, 0)
            if new:
                file.told[reason] = count
                context = file.reader.header.context
                self._record("recorder.lost", rank=context.rank, pid=context.pid, reason=reason, count=new)

    def _death(self, file: _File) -> Record:
        """Return `worker.died`, as the record after the process's last: a launcher that repeats it repeats its id."""
        context = file.reader.header.context
        code = self._exit_code(context.pid)
        ended: dict[str, Any] = {} if code is None else {"exit_code": code} if code >= 0 else {"signal": _name(-code)}
        now = time.monotonic_ns()
        about = {
            "rank": context.rank,
            "local_rank": context.local_rank,
            "attempt": context.restart,
            "pid": context.pid,
            "host": context.host,
            "last_record_age_s": round((now - file.reader.last_ns) / 1e9, 6),
            **ended,
        }
        seq = file.reader.rings[0].position
        return Record("event", seq, time.time_ns(), now, "worker.died", "null", ("AGENT", 0, about), context, 0, True)

    def _record(self, name: str, **metadata: Any) -> None:
        self.bus.record(SimpleNamespace(name=name, source="AGENT", timestamp=0, metadata=metadata))

    def _tell_foreign(self, path: Path, error: InputError) -> None:
        if path.name not in self._foreign:
            self._foreign.add(path.name)
            self._record("recorder.foreign", file=path.name, reason=str(error))

    def _quarantine(self, path: Path, error: InputError) -> None:
        """Put a file aside that is no ring, and keep the newest of these."""
        self.damaged += 1
        with suppress(OSError):  # gone meanwhile, or a directory: no reason to stop collecting the others
            path.rename(path.with_suffix(".bad"))
            aside = sorted(self.directory.glob("*.bad"), key=lambda bad: bad.lstat().st_mtime)
            for old in aside[:-QUARANTINE]:
                old.unlink()
        self._record("recorder.damaged", file=path.name, reason=str(error), damaged=self.damaged)


async def collect(
    directory: str | os.PathLike[str],
    bus: EventBus,
    *,
    interval: float = 0.05,
    exit_code: Callable[[int], int | None] = lambda _pid: None,
) -> None:
    """Collect the flight recorders in `directory` into `bus` until the bus closes: `bus.add_source(collect, DIR, bus)`.

    Tails the files of live processes every `interval` seconds. When a process has died, the rest of its records is
    delivered with `recovered` set, then, unless it ended in order, an event `worker.died` of its context. Its file is
    removed once every lane has all this; a launcher that was killed before repeats, and under the same ids. What cannot
    be read is put aside and told by an event `recorder.damaged`; the file of a live process of another version of this
    package is left alone and told once by `recorder.foreign`.

    Raises:
        ConfigError: the directory cannot be used, or another launcher collects it.
    """
    collector = Collector(Path(directory), bus, exit_code)
    worker = Worker("elastic-events collector")

    async def begin() -> None:
        await worker.run(collector.open)
        await worker.run(collector.scan)
        collector.sweep()

    try:
        # Shielded: a bus that closes at once is to have what lies there all the same.
        with anyio.move_on_after(OPENING, shield=True) as first_look:
            await begin()
        if first_look.cancelled_caught:  # a machine or a disk that is busy
            await begin()
        scan_at = 0.0
        while True:
            if anyio.current_time() >= scan_at:
                await worker.run(collector.scan)
                scan_at = anyio.current_time() + 4 * interval
            # A full sweep means that more is waiting, in rings that may overflow: look again at once.
            await anyio.sleep(0 if collector.sweep() else interval)
    finally:
        worker.close()
        if collector.is_open:
            collector.last_look()  # in this thread: at interpreter exit no other can be counted on (M4)
            bus.at_end(collector.close)


def _process(stem: str) -> str:
    """Return the identity of the process that made a file: its name is that of the run, then this."""
    return "-".join(stem.split("-")[-3:])


def _name(number: int) -> str:
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
