"""`record()` and `put_metric()`: the process-wide emitter, and what it points at.

All that a worker needs which only records: no event loop, no thread and no drain is loaded here. With `ELASTIC_EVENTS_DIR`
in the environment the records go to a flight recorder in that directory, and whoever collects it delivers them.
"""

import contextlib
import itertools
import os
import sys
import warnings
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elastic_events.bus.context import Context, read_context
from elastic_events.bus.emit import Emitter
from elastic_events.bus.exit import close_at_exit
from elastic_events.bus.fork import Armed, after_fork_in_child
from elastic_events.bus.redact import Redactor

if TYPE_CHECKING:
    from elastic_events.api import Event, RdzvEvent
    from elastic_events.bus.bus import EventBus
    from elastic_events.bus.pump import PipedRing
    from elastic_events.bus.ring import Pipe
    from elastic_events.bus.shape import Recordable

__all__ = ("Front", "front", "open_recorder", "put_metric", "record", "record_ours", "record_rdzv_event")


#: What opens a recorder, and what starts a bus for an event's destination: loaded by the first emit that needs it.
_RECORDER = tuple(f"elastic_events.recorder.{name}" for name in ("directory", "request", "writer"))
_RECORDING = "elastic_events.recording"


class Front:
    """Where the module functions go: to the bus opened last, else to the recorder of the environment, else nowhere.

    Any thread may open and close buses, and a signal handler may emit in between: what changes here is changed by single
    operations on lists and dicts, without a lock.
    """

    def __init__(self) -> None:
        self.emitter: Emitter = Emitter(None, None, Redactor())
        self.emitter.unheard = _unheard
        self.buses: list[EventBus] = []  # that are open, in the order they were opened
        self.callbacks: list[Callable[[EventBus], object]] = []  # told of each that opens
        self.context: Context | None = None  # of the recorder
        self.lent: dict[str, str | None] = {}  # what a bus has set for child processes only, and what it was before
        self.directory: str = ""  # of recorders, as the environment had it when records were first to go there
        self._borrower: dict[str, weakref.ref[object]] = {}
        self.is_forked: bool = False  # this process is a child by fork
        self.half_loaded: list[str] = []  # what a thread of its parent was loading, which is not here
        self._begin()
        self.point()
        after_fork_in_child(lambda: [self])

    # --- buses ---

    def opened(self, bus: "EventBus") -> None:
        """Let the module functions go to `bus`."""
        if bus not in self.buses:
            self.buses.append(bus)
        self.point()
        for callback in self.callbacks:
            callback(bus)

    def on_open(self, callback: "Callable[[EventBus], object]") -> None:
        """Call `callback(bus)` whenever a bus opens, and now for the one that was opened last."""
        self.callbacks.append(callback)
        bus = self.last
        if bus is not None:
            callback(bus)

    def closed(self, bus: "EventBus") -> None:
        """Let the module functions go to the bus that was opened before `bus`."""
        with contextlib.suppress(ValueError):
            self.buses.remove(bus)
        self.point()

    def point(self) -> None:
        """Point the emitter to where records go now."""
        if not self.is_forked and self.environ("ELASTIC_EVENTS_DIR"):
            with contextlib.suppress(ImportError):  # told with the first record
                for name in _RECORDER:  # here, not with the first record: a thread of ours may fork then
                    import_module(name)
        while True:
            bus = self.last
            self._point(bus)
            if bus is self.last:  # or another thread opened or closed one meanwhile
                return

    @property
    def last(self) -> "EventBus | None":
        """The bus opened last of those still open; where all of them close, of those."""
        buses = self.buses.copy()
        return next((bus for bus in reversed(buses) if not bus._leaving), buses[-1] if buses else None)

    def _point(self, bus: "EventBus | None") -> None:
        emitter = self.emitter
        if bus is not None:
            own = bus._emitter
            emitter.strict, emitter.redactor = own.strict, own.redactor
            emitter.vetted, emitter.texts, emitter.passes = own.vetted, own.texts, own.passes
            emitter.events, emitter.metrics = own.events, own.metrics
        elif self._rings is not None:
            emitter.events, emitter.metrics = (ring.pipe for ring in self._rings)
        elif not self._tried and (directory := self.environ("ELASTIC_EVENTS_DIR")):
            self.directory = directory
            emitter.events, emitter.metrics = (armed.pipe for armed in self._armed)
        else:
            emitter.events = emitter.metrics = None

    # --- the recorder of the environment ---

    def environ(self, name: str) -> str | None:
        """Return a variable of the environment as this process was given it."""
        return self.lent[name] if name in self.lent else os.environ.get(name)

    def borrow(self, bus: object) -> "tuple[PipedRing, PipedRing] | None":
        """Return the rings of this process's recorder for `bus` to read and emit to, too; None where it is another's."""
        directory = self.environ("ELASTIC_EVENTS_DIR")
        if not directory:
            return None
        me = weakref.ref(bus)
        if self._borrower.setdefault("bus", me)() is None:
            self._borrower["bus"] = me
        if self._borrower["bus"]() is not bus:
            return None
        if self._rings is None:
            self.directory = directory
            self._open()
        if self._rings is None:
            self.give_back(bus)
        return self._rings

    def ask(self, keys: Iterable[int]) -> "tuple[PipedRing, PipedRing] | None":
        """Have what this process recorded without a bus go to these requests of a collector, too; return its rings."""
        for ring in (self._rings or ())[:1]:
            for key in keys:
                ring.file.request(key)  # type: ignore[attr-defined]
        return self._rings

    def give_back(self, bus: object) -> bool:
        """Let another bus borrow the rings; return whether `bus` had them."""
        borrower = self._borrower.get("bus")
        if borrower is None or borrower() is not bus:
            return False
        self._borrower.clear()
        return True

    def _begin(self) -> None:
        """Have no recorder yet; the first record opens one."""
        self._rings: tuple[PipedRing, PipedRing] | None = None
        self._tried = False
        self._tries = itertools.count()
        # The same two until then: frames that wait in one are forwarded by whoever emits next.
        self._armed = [Armed(self._open, partial(self._pipe, ring)) for ring in range(2)]

    def _open(self) -> None:
        """Write to a flight recorder of this process's own; where that fails, warn once and go on without."""
        if next(self._tries):
            return
        self._tried = True
        try:
            if self.cannot_load(*_RECORDER):
                raise ImportError("this process was forked while its parent loaded that")
            self.context = read_context()
            self._rings = open_recorder(Path(self.directory), self.context)
            for armed in self._armed:  # what other threads put meanwhile, and nobody may put again
                armed.forward()
            close_at_exit(self._end)
        except Exception as error:  # noqa: BLE001 - an emitter opens it, which never raises
            _warn(f"running without the flight recorder of ELASTIC_EVENTS_DIR: {error}")
        except BaseException:  # Ctrl-C: the next record opens it
            self._tried = False
            self._tries = itertools.count()
            raise
        self.point()

    def _pipe(self, ring: int) -> "Pipe | None":
        return None if self._rings is None else self._rings[ring].pipe

    # --- the process ---

    def after_fork(self) -> None:
        """The child has a recorder file of its own; which of the buses go on, they say themselves."""
        self._borrower = {}
        self.is_forked = True
        self.half_loaded = [name for name in (*_RECORDER, _RECORDING) if _is_half_loaded(name)]
        self._begin()
        self.point()

    def cannot_load(self, *names: str) -> bool:
        """Whether a thread of the parent was loading one of these: to import it would wait for ever."""
        return any(name in self.half_loaded and _is_half_loaded(name) for name in names)

    def _end(self) -> None:
        if self._rings is not None:
            _close(self._rings)


def open_recorder(directory: Path, context: Context, capacity: int | None = None) -> "tuple[PipedRing, PipedRing]":
    """Make rings for `context` in a file of their own in `directory`; of 16,384 slots each by default."""
    from elastic_events.recorder.directory import is_collected
    from elastic_events.recorder.request import INHERITED, inherited
    from elastic_events.recorder.writer import open_rings

    rings = open_rings(directory, context, capacity)
    keys = inherited(front.environ(INHERITED))
    for key in keys:
        rings[0].file.request(key)
    if keys and not is_collected(directory):  # whoever asked is gone, and the collector with it
        _warn(
            f"nobody collects {directory} any more: for what is recorded there, elastic-events collect --once {directory} URL"
        )
    return rings


def _warn(sentence: str) -> None:
    with contextlib.suppress(Exception):  # where warnings are errors: an emitter never raises
        warnings.warn(sentence, RuntimeWarning, stacklevel=4)


def _close(rings: "tuple[PipedRing, PipedRing]") -> None:
    for ring in rings:
        close = getattr(ring, "close", None)
        if close is not None:
            close()


def _unheard(event: Any, destination: Any) -> None:
    """With no bus open, start one where the destination has a handler that writes."""
    if front.cannot_load(_RECORDING):
        return
    # By name: what is above loads this file, and the few programs that need it load it here.
    import_module(_RECORDING).unheard(event, destination)


def _is_half_loaded(name: str) -> bool:
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))


def _named(function: Any) -> Any:
    """Give a function the name by which it is pickled."""
    function.__module__, function.__qualname__ = __name__, function.__name__
    return function


front: Front = Front()

if TYPE_CHECKING:

    def record(event: "Event | RdzvEvent | Recordable", destination: str | None = "null") -> None:
        """Record one event; see `Emitter.record`."""

    def put_metric(metric_name: str, metric_value: Any, metric_group: str | None = "torchelastic") -> None:
        """Record one metric point; see `Emitter.put_metric`."""

    def record_ours(name: str, metadata: dict[str, int | str | bool]) -> None:
        """Record one event of this package; see `Emitter.record_ours`."""

    def record_rdzv_event(event: "RdzvEvent | Recordable") -> None:
        """Record one rendezvous event; see `Emitter.record_rdzv_event`."""

else:
    #: The hot path: functions of the one emitter that points at the bus opened last.
    _emitter = front.emitter
    record, put_metric, record_rdzv_event, record_ours = (
        _named(function)
        for function in (_emitter.record, _emitter.put_metric, _emitter.record_rdzv_event, _emitter.record_ours)
    )
