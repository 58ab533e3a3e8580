"""The collecting side: tail the files of live processes, adopt those of dead ones, remove what is delivered."""

import errno
import threading
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from elastic_events.bus.backlog import Backlog
from elastic_events.bus.errors import SCARCE, ConfigError, InputError
from elastic_events.bus.lane import Lane
from elastic_events.bus.latest import Latest
from elastic_events.bus.pump import Cursor
from elastic_events.bus.record import Record, record_of
from elastic_events.recorder.alive import boot_id, is_another, is_locked, pid_namespace, runs
from elastic_events.recorder.directory import LOOP, holds, let_go, rings, secure, take
from elastic_events.recorder.format import LOSSES, OtherVersionError
from elastic_events.recorder.reader import LOOK, RecorderReader

__all__ = ("LATER", "OPENING", "Collector", "Heads", "Outlet")

#: Seconds that the first look at a directory may hold up a bus that closes.
OPENING = 1.0

#: Failures to open a file, or to look at the directory, that say nothing about it: the next scan tries again.
LATER = SCARCE | {errno.ENOENT, errno.EIO}

#: Marks that wait, a file. Each stands for those before it: with fewer of them a file learns a little later what is delivered.
MARKS = 256

#: Sequence numbers from here on are those of deaths, and no process gets there: one that was told dead and records again, as
#: from where its lock cannot be seen, repeats none, or a sink that knows records by their ids would drop one of the two.
BEYOND = 2**52

#: Damaged files that are kept aside, a directory.
QUARANTINE = 16

#: Where the records of a file go: the lanes, and how to record an event about it; None while nobody wants them.
Outlet = tuple[Sequence[Lane], Callable[[Any], object]]

Pair = tuple[int, int]  # of events and of metrics

#: Name of a file -> the next sequence number of each of its rings.
Heads = dict[str, list[int]]


class _Mark:
    """What was fed to the lanes up to some positions of a file."""

    def __init__(self, lanes: Sequence[Lane], positions: Pair, gone: dict[str, Pair]) -> None:
        self.entered = [(lane, lane.backlog.entered) for lane in lanes]
        self.positions = positions
        self.gone = gone

    @property
    def settled(self) -> bool:
        """Whether every lane has delivered it, or the lane's sink has refused it."""
        return all(lane.unsettled_from >= entered for lane, entered in self.entered)

    @property
    def safe(self) -> bool:
        """Whether no lane holds it in memory only."""
        return all(lane.safe_from >= entered for lane, entered in self.entered)


class _File:
    """One file that is collected."""

    def __init__(self, reader: RecorderReader) -> None:
        self.reader = reader
        self.marks: list[_Mark] = []
        self.told: dict[str, int] = {}  # losses that were reported
        self.over = False  # nothing more will be written to it
        self.died = False  # over, and its process did not end it: to be told
        self.ended = False  # over, and read to its end
        self.begun = False
        self._safe: _Mark | None = None

    def commit(self) -> None:
        """Note in the file how far its records are delivered, and how far they are out of danger."""
        done = None
        while self.marks and self.marks[0].settled:
            done = self.marks.pop(0)
        if done is not None:
            self.reader.note("settled", done.positions)
        # Those of one file enter in order, and while a sink is away they are many.
        count = bisect_left(self.marks, True, key=lambda mark: not mark.safe)
        safe = self.marks[count - 1] if count else done
        if safe is not None and safe is not self._safe:
            self._safe = safe
            for reason in LOSSES:
                self.reader.note(reason, safe.gone[reason])
            self.reader.note("safe", safe.positions)


class Collector:
    """Collects one directory. Synchronous; `Collecting` and the collector process give it its turns.

    Tails the files of live processes. When a process has died, the rest of its records is delivered with `recovered` set,
    then, unless it ended in order, an event `worker.died` of its context. Its file is removed once every lane has all this;
    a launcher that was killed before repeats, and under the same ids. What cannot be read is put aside and told by an event
    `recorder.damaged`; the file of a live process of another version of this package is left alone and told once by
    `recorder.foreign`.

    A record counts as delivered when every lane has delivered it or its sink has refused it; the file remembers how far
    that is, so that the next collector repeats at most what was under way. Records keep their own context, id and times.

    Args:
        directory: where the workers record; made, private, if it is missing.
        outlet: returns where the records of a file go.
        about: records an event about the directory itself.
        exit_code: returns what a pid ended with, as `subprocess` has it (negative for a signal), or None.
    """

    def __init__(
        self,
        directory: Path,
        outlet: Callable[[RecorderReader], Outlet | None],
        about: Callable[[Any], object],
        exit_code: Callable[[int], int | None] = lambda _pid: None,
    ) -> None:
        self.directory = directory
        self.damaged: int = 0
        self.skip: set[Path] = set()  #: files that somebody else delivers
        self._outlet = outlet
        self._about = about
        self._exit_code = exit_code
        # A scan that nobody waits for any more may go on in its thread beside a sweep: read as a list, changed at one stroke.
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._foreign: set[str] = set()  # files of other versions whose processes live
        self._lock: int | None = None
        self._is_loop = False  # we took it ourselves: a launcher's event loop
        self._scanning = threading.Lock()  # at the end a scan may be under way in a thread
        self._over = False  # the last look was taken: what still waits in the thread does nothing

    def open(self, lock: int | None = None) -> None:
        """Take the directory; `lock` is its lock where that is held already. The second call does nothing.

        Raises:
            ConfigError: it cannot be used, or somebody else collects it.
        """
        if self.is_open:
            return
        secure(self.directory)
        boot_id()  # read here, where nobody minds, and known to the looks
        self._is_loop = lock is None
        self._lock = take(self.directory, LOOP) if lock is None else lock
        if self._lock is None:
            raise ConfigError(f"{self.directory} is collected by another launcher: give each its own directory")

    @property
    def is_open(self) -> bool:
        """Whether the directory is ours."""
        return self._lock is not None

    @property
    def files(self) -> list[RecorderReader]:
        """The files that are not done with."""
        return [file.reader for file in list(self._files.values())]

    @property
    def live(self) -> list[RecorderReader]:
        """Those of them that are still written."""
        return [file.reader for file in list(self._files.values()) if not file.over]

    @property
    def pids(self) -> list[int]:
        """The processes that still write, and whose pids mean something here."""
        headers = [file.reader.header for file in list(self._files.values()) if not file.over]
        return [header.context.pid for header in headers if header.pid_namespace == pid_namespace() != ""]

    def heads(self) -> Heads:
        """Return how far each file is written now."""
        return {name: [ring.head for ring in file.reader.rings] for name, file in list(self._files.items())}

    def behind(self, heads: Heads) -> int:
        """Return how many records of before `heads` are not fed; the end of a file counts as one."""
        waiting = [(file, heads[name]) for name, file in list(self._files.items()) if name in heads and not file.ended]
        return sum(sum(map(Cursor.behind, file.reader.cursors, before)) + file.over for file, before in waiting)

    def close(self, *, keep: bool = False) -> None:
        """Note what was delivered, and let the directory go, unless its lock is to be kept."""
        for file in list(self._files.values()):
            file.commit()
        if self._lock is not None:
            self._forget_delivered()
            if not keep:
                let_go(self._lock)
            self._lock = None

    def scan(self) -> None:
        """Look for new files, and for processes that have ended; remove what is done with. It does I/O."""
        with self._scanning:
            if not self._over:
                self._scan()

    def _scan(self) -> None:
        try:
            self._take_in()
        finally:  # also where the directory cannot be looked at
            self.judge()

    def _take_in(self) -> None:
        self._forget_delivered()
        if self._lock is not None and not holds(self.directory, self._lock) and not self._retake():
            return
        for part in self.directory.glob(".*.ring.*.part"):  # left by one that was killed while it made its file
            if not runs(_process(part.name[1 : part.name.rindex(".ring")])) and not is_locked(part):
                with suppress(OSError):
                    part.unlink()
        present = list(rings(self.directory))
        self._foreign &= {self.directory.name, *(path.name for path in present)}
        for path in present:
            if path.name in self._files or path in self.skip:
                continue
            try:
                self._files[path.name] = _File(RecorderReader(path, write=True))
            except InputError as error:
                if isinstance(error.__cause__, OtherVersionError) and (is_locked(path) or runs(_process(path.stem))):
                    self._tell_foreign(path, error)
                elif getattr(error.__cause__, "errno", None) not in LATER:
                    self._quarantine(path, error)

    def _retake(self) -> bool:
        """Take a directory that was removed and made again, unless somebody else has. A collector process ends with its own."""
        if not self._is_loop or not self.directory.is_dir():
            return False
        try:
            secure(self.directory)
            lock = take(self.directory, LOOP)
            if lock is None:
                raise ConfigError("it was removed, made again, and is collected by somebody else now")
        except OSError:
            return False  # it was removed once more
        except ConfigError as error:
            self._tell_foreign(self.directory, error)
            return False
        assert self._lock is not None
        let_go(self._lock)
        self._lock = lock
        return True

    def judge(self) -> None:
        """Look which files will not be written any more. It does I/O."""
        for file in list(self._files.values()):
            if not file.over and not file.reader.alive:
                file.died = not file.reader.closed and not is_another(file.reader.header)
                file.over = True

    def sweep(self, *, last: bool = False) -> float:
        """Feed what is new, note what was delivered, report the dead; return the share of a ring that was found filled.

        What no lane has room for stays in the files for now, where it is safe from everything but the worker's own haste;
        `last` feeds it all the same.
        """
        filled = 0.0
        for name, file in list(
            self._files.items()
        ):  # a scan may be under way in a thread, of a turn that was cancelled
            file.commit()
            outlet = self._outlet(file.reader)
            if outlet is not None and (last or _room(outlet[0])):
                filled = max(filled, self._sweep(file, *outlet))
                with suppress(KeyError):  # the scan has removed it
                    self._files.move_to_end(name)  # the next sweep begins where this one stopped
        return filled

    def last_look(self) -> None:
        """Feed what came since the last turn: the bus is about to close, and delivers it within its deadline."""
        self._over = True
        if self._scanning.acquire(timeout=OPENING):  # not for ever: the thread may hang in a file system
            try:
                with suppress(OSError):  # what it cannot see now stays in the directory
                    self._scan()
            finally:
                self._scanning.release()
        # So often as a full ring needs: workers that go on may fill it faster than it is read.
        capacities = [ring.capacity for file in self.files for ring in file.rings]
        for _ in range(1 + max(capacities, default=0) // LOOK):
            if self.sweep(last=True) < 1:
                break

    def commit(self) -> None:
        """Note what was delivered since the last sweep."""
        for file in list(self._files.values()):
            file.commit()

    def _forget_delivered(self) -> None:
        for name in [name for name, file in list(self._files.items()) if file.ended and not file.marks]:
            # What cannot be removed, from a disk that has become read-only, say, stays known: else it would be read again.
            with suppress(OSError):
                self._files[name].reader.path.unlink(missing_ok=True)
                del self._files[name]

    def _sweep(self, file: _File, lanes: Sequence[Lane], tell: Callable[[Any], object]) -> float:
        if file.ended:
            return 0.0
        over = file.over  # once: a scan in a thread may find it meanwhile, and this look was not at all that there is
        reader, before = file.reader, file.reader.positions
        with reader.or_nothing():
            records = list(reader.all_dead()) if over else reader.look(LOOK)
        if over and file.died:
            records.append(self._death(file))
        if records or reader.positions != before or not file.begun:
            # The first mark also stands for what an earlier collector read: it may still be in the lanes' spools.
            file.begun = True
            for lane in lanes:
                lane.feed(records)
            gone = {reason: (counts[0], counts[1]) for reason, counts in reader.gone.items()}
            file.marks.append(_Mark(lanes, reader.positions, gone))
            if len(file.marks) > MARKS:  # a sink is away: every other one goes, the first and the last stay
                del file.marks[1:-1:2]
        self._tell_losses(file, tell)
        file.ended = over
        file.commit()
        moved = (after - earlier for earlier, after in zip(before, reader.positions, strict=True))
        return max(count / min(ring.capacity, LOOK) for count, ring in zip(moved, reader.rings, strict=True))

    def _tell_losses(self, file: _File, tell: Callable[[Any], object]) -> None:
        """Tell what is lost by now, in all: who collects after a kill tells it again, and the highest total holds."""
        for reason, count in file.reader.lost.items():
            new = count - file.told.get(reason, 0)
            if new:
                file.told[reason] = count
                context = file.reader.header.context
                about = {"rank": context.rank, "pid": context.pid, "process": context.process}
                tell(_event("recorder.lost", **about, reason=reason, count=new, total=count))

    def _death(self, file: _File) -> Record:
        """Return `worker.died`, as a record behind the process's last: a collector that repeats it repeats its id."""
        header = file.reader.header
        context = header.context
        code = self._code(context.pid)
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
        name = "agent.died" if header.source == "AGENT" else "worker.died"
        seq = BEYOND + file.reader.rings[0].position
        return record_of("event", seq, time.time_ns(), now, name, "null", ("AGENT", 0, about), context, 0, True)

    def _code(self, pid: int) -> int | None:
        try:
            return self._exit_code(pid)
        except Exception:  # noqa: BLE001 - the user's function, which may not know a process of its worker's: nor do we
            return None

    def _tell_foreign(self, path: Path, error: InputError | ConfigError) -> None:
        if path.name not in self._foreign:
            self._foreign.add(path.name)
            self._about(_event("recorder.foreign", file=path.name, reason=str(error)))

    def _quarantine(self, path: Path, error: InputError) -> None:
        """Put a file aside that is no ring, and keep the newest of these."""
        self.damaged += 1
        with suppress(OSError):  # gone meanwhile, or a directory: no reason to stop collecting the others
            path.rename(path.with_suffix(".bad"))
            aside = sorted(self.directory.glob("*.bad"), key=lambda bad: bad.lstat().st_mtime)
            for old in aside[:-QUARANTINE]:
                old.unlink()
        self._about(_event("recorder.damaged", file=path.name, reason=str(error), damaged=self.damaged))


def _event(name: str, **metadata: Any) -> SimpleNamespace:
    return SimpleNamespace(name=name, source="AGENT", timestamp=0, metadata=metadata)


def _room(lanes: Sequence[Lane]) -> bool:
    """Whether some lane could take more: the others lose by their own slowness."""
    return not lanes or any(_takes(lane.backlog) for lane in lanes)


def _takes(backlog: Backlog | Latest) -> bool:
    """Whether a backlog has room, in memory or on disk; on a full disk, the rings have their room already."""
    if 2 * len(backlog) < backlog.records:
        return True
    return backlog.spool is not None and (2 * backlog.spill() < backlog.records or backlog.spool.refused == "spool")


def _process(stem: str) -> str:
    """Return the identity of the process that made a file: its name is that of the run, then this."""
    return "-".join(stem.split("-")[-3:])


def _name(number: int) -> str:
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
