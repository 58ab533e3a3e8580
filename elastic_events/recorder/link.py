"""A program's end of its collector process: ask for a sink, see that somebody collects, ask how far it has come."""

import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from elastic_events.bus.context import Context, start_time
from elastic_events.bus.errors import ConfigError
from elastic_events.bus.ledger import LaneStats
from elastic_events.bus.tell import say, shown
from elastic_events.bus.text import counted, noun
from elastic_events.front import front
from elastic_events.recorder.alive import is_locked, release
from elastic_events.recorder.directory import is_collected, kick, let_go, remove, rings, secure, serves_requests, take
from elastic_events.recorder.format import LOSSES
from elastic_events.recorder.launch import launch, why_not
from elastic_events.recorder.page import PageReader, lanes_of
from elastic_events.recorder.request import INHERITED, VARIABLES, Request, drop, inherited, patience, submit
from elastic_events.recorder.writer import MappedRing, RecorderFile, open_rings

__all__ = ("CollectedByLoop", "Link", "recorder_directory")

#: Seconds between two looks at how far the collector has come, and between two at whether there is one.
STEP, CHECK = 0.001, 0.1

#: Characters of an error in a sentence that goes on after it.
_ERROR = 300

#: Seconds between two starts of a collector by one program, at least.
AGAIN = 2.0


class CollectedByLoop(ConfigError):
    """Nothing is wrong: the launcher collects by itself, and serves no requests."""


class Link:
    """What one process knows of the collector of its directory. Any thread may ask it; one at a time opens.

    Args:
        directory: of the recorders.
        private: it was made for this run, and goes with it.
        everyone: what is asked for is for all processes of the run, not for this one and those below it.
        source: as what a reader shall tell the death of this process.
        capacity: slots of each ring; the recorder's default if it is not given.
    """

    def __init__(
        self,
        directory: Path,
        *,
        private: bool = False,
        everyone: bool = False,
        source: str = "WORKER",
        capacity: int | None = None,
    ) -> None:
        self.capacity = capacity
        self.directory: Path = directory.absolute()  # the collector has a working directory of its own
        self.private = private
        self.everyone = everyone
        self.source = source
        self.file: RecorderFile | None = None
        self.requests: dict[int, Request] = {}
        self._run_id = ""
        self._keys: set[int] = set(inherited(front.environ(INHERITED)))
        self._page = PageReader(self.directory)
        self._before: dict[str, str | None] | None = None  # the environment, where it was changed
        self._said = False
        self._early: tuple[RecorderFile, list[int]] | None = None  # what was recorded before the bus, and how far
        self._launched = 0.0

    def open(self, context: Context, urls: Sequence[str]) -> tuple[MappedRing, MappedRing]:
        """Ask for the sinks of `urls`, make this process's rings and see that somebody collects them.

        Raises:
            ConfigError: a URL is wrong or this process's own, the directory cannot be used, or no process can be started.
            OSError: the disk is full, or worse.
        """
        reason = why_not()
        if reason:
            raise ConfigError(reason)
        secure(self.directory)
        if is_collected(self.directory) and not serves_requests(self.directory):
            raise CollectedByLoop(f"{self.directory} is collected by a bus in its launcher's event loop")
        if not all(map(self.takes, urls)):
            raise ConfigError(
                "one of the sinks, or what takes its dead letters, is this program's own, as its stdout is"
            )
        try:
            for url in urls:
                self._ask(url, context.run_id)
            self._run_id = context.run_id
            made = self._make(context)
            if not self.see_to_it():
                raise ConfigError("no collector process could be started")
        except BaseException:
            self.abandon()
            raise
        return made

    def reopen(self, context: Context) -> tuple[MappedRing, MappedRing]:
        """Make rings of its own for a forked child, under the requests that there are.

        Raises:
            ConfigError: the directory cannot be used any more.
            OSError: the disk is full, or worse.
        """
        self._early, self._said = None, False  # what the parent recorded, the parent waits for
        made = self._make(context)
        self.see_to_it()
        return made

    def _make(self, context: Context) -> tuple[MappedRing, MappedRing]:
        for _ in range(3):
            try:
                if self.private:
                    secure(self.directory.parent)
                secure(self.directory)
                for request in list(self.requests.values()):
                    submit(self.directory, request)
                made = open_rings(self.directory, context, self.capacity, source=self.source)
                break
            except FileNotFoundError:  # a collector that ended has just removed its directory
                continue
        else:
            raise ConfigError(f"{self.directory} is removed again and again: name another directory")
        self.file = made[0].file
        for key in list(self._keys):
            self.file.request(key)
        return made

    @property
    def urls(self) -> list[str]:
        """The sinks that were asked for."""
        return [request.url for request in list(self.requests.values())]

    @staticmethod
    def takes(url: str) -> bool:
        """Whether a collector can serve `url`: not what is this process's own, its streams or a scheme that it added.

        Nor where its dead letters go to one of these.
        """
        from elastic_events.sinks.urls import split_dead_letters

        return not any(map(_is_own, filter(None, split_dead_letters(url, os.environ))))

    def abandon(self) -> None:
        """Let go of what was opened, since the bus that was to have it does not come to be."""
        self._leave()
        if self.file is not None:
            self.file.close()
        kick(self.directory)
        with suppress(OSError):
            self._remove()

    def _remove(self) -> None:
        """Remove what was made for a bus that did not come to be; a collector that lives does so itself."""
        lock = take(self.directory)
        if lock is not None:
            if not any(rings(self.directory)):
                for key in list(self.requests):
                    drop(self.directory, key)
                remove(self.directory, whole=self.private)
            let_go(lock)

    def subscribe(self, url: str) -> str:
        """Let the sink of `url` have what this process records from now on; return the name of its lane."""
        assert self.file is not None
        request = self._ask(url, self._run_id)
        submit(self.directory, request)
        self.file.request(request.key)
        kick(self.directory)
        if self._before is not None:
            self.join_children()
        return request.url.partition(":")[0]

    def see_to_it(self) -> bool:
        """Start a collector unless there is one; return whether there is one now."""
        try:
            lock = take(self.directory)
            if lock is None:
                kick(self.directory)
                return True
            try:
                for request in list(self.requests.values()):  # the last collector may have dropped them with their run
                    submit(self.directory, request)
                self._launched = time.monotonic()
                launch(self.directory, lock)
            finally:
                release(lock)  # the collector has a copy
        except (OSError, ConfigError):
            return False
        return True

    # --- asked by the bus ---

    def lanes(self) -> dict[str, LaneStats]:
        """Return the ledgers of the collector's lanes that this process's records go to: those of all its processes."""
        run_id, keys = self._run_id, self._keys
        found = lanes_of(self._page.read(), run_id, keys)
        return {name: _stats(lane.ledger) for name, lane in found.items()}

    def flush(self, heads: Sequence[int], timeout: float) -> dict[str, int]:
        """Wait until all before `heads` is delivered, `timeout` seconds at most; return what is not, by lane."""
        end = time.monotonic() + timeout
        kick(self.directory)
        self._wait(heads, end)
        return self._undelivered(heads)

    def close(self, heads: Sequence[int], timeout: float) -> dict[str, int]:
        """As `flush`, for good. The last writer of a directory waits for its collector's end as well, for its ledgers."""
        end = time.monotonic() + timeout
        assert self.file is not None
        left: dict[str, int] = {}
        try:
            self._leave()
            self.file.close()
            kick(self.directory)
            if self._wait(heads, end) and not self._others(self.file.path.name):
                while time.monotonic() < end and not self._is_over():
                    time.sleep(2 * STEP)
        finally:  # Ctrl-C: who does not want to wait is told as well
            left = self._undelivered(heads)
            self._last_words(left)
        return left

    def _wait(self, heads: Sequence[int], end: float) -> bool:
        """Wait until the collector has settled all before `heads`, or `end`; start one where there is none any more."""
        checked = time.monotonic()
        while not self._settled(heads):
            now = time.monotonic()
            if now >= end:
                return False
            if now - checked >= CHECK:
                checked = now
                if not is_collected(self.directory) and now - self._launched >= AGAIN and not self.see_to_it():
                    return False
                kick(self.directory)
            time.sleep(STEP)
        return True

    def _is_over(self) -> bool:
        """Whether the ledgers of our lanes are their last, or nobody is there to write them."""
        standing = self._page.read()  # read in time, it is at hand when the directory is gone
        if standing is not None and (standing.ended or standing.stays):
            return True
        lanes = lanes_of(standing, self._run_id, self._keys).values()
        return (bool(lanes) and all(lane.over for lane in lanes)) or not is_collected(self.directory)

    def _settled(self, heads: Sequence[int]) -> bool:
        return self._left(heads) == 0

    def _left(self, heads: Sequence[int]) -> int:
        """How many records of this process are not settled: of those before `heads`, and of those before the bus."""
        assert self.file is not None
        parts = [(self.file, heads), *([self._early] if self._early is not None else [])]
        return sum(
            max(head - done, 0) for file, stop in parts for done, head in zip(file.told("settled"), stop, strict=True)
        )

    def _undelivered(self, heads: Sequence[int]) -> dict[str, int]:
        left = self._left(heads)
        if not left:
            return {}
        waiting = {name: min(stats.pending, left) for name, stats in self.lanes().items() if stats.pending}
        return waiting or {"collector": left}

    def _others(self, mine: str) -> bool:
        """Whether a file of the directory is still written whose name has not `mine` in it."""
        try:
            return any(mine not in path.name and is_locked(path) for path in rings(self.directory))
        except OSError:  # this process has given up the right to look, by setuid; or it has no descriptor left
            return True

    def _ask(self, url: str, run_id: str) -> Request:
        from elastic_events.sinks.urls import absolute

        environ = {name: value for name, value in os.environ.items() if name.startswith(VARIABLES)}
        request = Request(
            absolute(url),
            run_id,
            self.everyone,
            patience=patience(),
            private=self.private,
            environ=environ,
        )
        self.requests[request.key] = request
        self._keys.add(request.key)
        return request

    # --- processes that are started from here ---

    def join_children(self) -> None:
        """Let what processes record that are started from now on go where ours goes, until `close`."""
        keys = ",".join(f"{key:016x}" for key in sorted(self._keys))
        variables = {"ELASTIC_EVENTS_DIR": str(self.directory), INHERITED: keys}
        if self._before is None:
            self._before = {name: os.environ.get(name) for name in variables}
        if not self.everyone:  # a second bus of this process is its own affair
            front.lent = self._before
        os.environ.update(variables)
        rings = front.ask(self._keys)  # what this process recorded before the bus
        if rings is not None and self._early is None:
            self._early = (rings[0].file, [ring.head for ring in rings])  # type: ignore[attr-defined]

    def _leave(self) -> None:
        before, self._before = self._before or {}, None
        if front.lent is before:
            front.lent = {}
        for name, value in before.items():
            if value is not None:
                os.environ[name] = value
            else:
                os.environ.pop(name, None)

    # --- the end ---

    def _last_words(self, left: Mapping[str, int]) -> None:
        """Say on stderr, once, what is not delivered and what was lost; nothing where there is nothing to say."""
        sentences = [*self._late(left), *self._lost()]
        if sentences and not self._said:
            self._said = True
            for sentence in sentences:
                say(f"elastic_events: {sentence}")

    def _late(self, left: Mapping[str, int]) -> Iterator[str]:
        if not left:
            return
        lanes = self.lanes()
        why = [
            f"{name}: {shown(lanes[name].last_error, _ERROR)}"
            for name in left
            if name in lanes and lanes[name].last_error
        ]
        goes_on = "a collector goes on for a while; after that," if is_collected(self.directory) else "to deliver them,"
        yield (
            f"{counted(max(left.values()), 'record')} not delivered yet ({'; '.join(why) or ', '.join(left)}), and kept in "
            f"{self.directory}: {goes_on} elastic-events collect --once {self.directory}"
        )

    def _lost(self) -> Iterator[str]:
        assert self.file is not None
        own = {reason: sum(self.file.told(reason)) for reason in LOSSES}
        if any(own.values()):
            told = ", ".join(f"{count} {reason}" for reason, count in own.items() if count)
            yield f"of what this process recorded, {told} before it was collected"
        mine = f"-{os.getpid():x}-{start_time(os.getpid()):x}-"
        if self._others(mine):
            return  # the last process says it for all
        for name, lane in self.lanes().items():
            if lane.lost:
                why = f"; its last error: {lane.last_error}" if lane.last_error else ""
                yield f"sink {name!r} lost {lane.lost} of {lane.accepted} {noun(lane.accepted, 'record')}: {lane.why_lost}{why}"


def _is_own(url: str) -> bool:
    from elastic_events.sinks.urls import SHIPPED, STREAMS

    scheme, _, rest = url.strip().partition(":")
    is_stream = scheme == "console" or (scheme == "jsonl" and rest.partition("?")[0] in STREAMS)
    return scheme not in SHIPPED or is_stream or rest.startswith(("////dev/std", "////dev/fd/", "////proc/"))


def recorder_directory(context: Context) -> Path:
    """Return a directory of this user and run for recorders, made if need be; it is the run's own.

    Raises:
        ConfigError: it cannot be made, or belongs to somebody else.
    """
    home = Path(tempfile.gettempdir()) / f"elastic-events-{os.getuid()}"
    secure(home)
    name = context.run_id
    if name == "none":
        # No launcher named the run: ranks have their launcher in common, another program has nothing.
        parent = os.getppid()
        name = context.process if context.rank is None else f"launcher-{parent:x}-{start_time(parent):x}"
    directory = home / (re.sub(r"[^A-Za-z0-9._-]+|^[.]+", "_", name)[:100] or "_")
    secure(directory)
    return directory


def _stats(ledger: Mapping[str, object]) -> LaneStats:
    with suppress(TypeError):
        return LaneStats(**{name: ledger[name] for name in LaneStats._fields if name in ledger})  # type: ignore[arg-type]
    return LaneStats(0, 0, 0, {}, 0, 0, 0, "closed", 0, 0, "", {})
