"""The hot path: from `record()` and `put_metric()` to a slot of a ring, in one look.

No lock, no wake-up, no system call, no logging, nothing a signal handler or a finalizer could deadlock on (M1, M2). What
it costs: one clock read, one tuple, one call of the msgpack encoder, one list store. The encoder runs here, not in the
drain, so that a later change of the caller's dict does not show (M10). There is one clock read, not two: the drain turns
monotonic time into wall time, since a second read and its nine bytes would cost a fifth of the whole.
"""

import sys
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

from elastic_events.api import Event, EventSource, NodeState
from elastic_events.bus.codec import LIMIT, encode, encode_hard
from elastic_events.bus.errors import MetadataError
from elastic_events.bus.numbers import as_metric, number
from elastic_events.bus.redact import NAMES, Redactor
from elastic_events.bus.ring import Pipe
from elastic_events.bus.shape import KNOWN, class_name, fields_of, rdzv_fields_of
from elastic_events.bus.signals import is_the_callers

__all__ = ("Emitter", "PutMetric", "RecordEvent", "RecordOurs", "RecordRdzv")

_SCALARS = frozenset({int, float, bool, type(None)})
_TEXT = (str, type(None))

#: Keys of metadata, and items of a list in it, that are looked at without a walk: it alone is bounded in time.
_MANY = 256
_FEW = 32

#: What may be nested once more, and how many items it and what it is nested in may have.
_NESTS = (list, tuple, dict)
_NESTED = 8

#: Characters of a new text in a list or a dict: there may be 2,048 of them, and each is searched for secrets.
_LONG = 512


class PutMetric(Protocol):
    """`put_metric`, of the process or of a bus."""

    def __call__(
        self, metric_name: str, metric_value: Any, metric_group: str | None = "torchelastic"
    ) -> None: ...  # pragma: no cover


class RecordEvent(Protocol):
    """`record`, of the process or of a bus."""

    def __call__(self, event: Any, destination: str | None = "null") -> None: ...  # pragma: no cover


class RecordOurs(Protocol):
    """What records events of this package."""

    def __call__(self, name: str, metadata: dict[str, int | str | bool]) -> None: ...  # pragma: no cover


class RecordRdzv(Protocol):
    """`record_rdzv_event`, of the process or of a bus."""

    def __call__(self, event: Any) -> None: ...  # pragma: no cover


class Untraced:
    """A block of which `torch.compile` does not trace the calls, where it is under way: it would compile our own code."""

    __slots__ = ("_compiler", "_tracer")

    def __enter__(self) -> None:
        self._compiler: Any = sys.modules.get("torch._C._dynamo.eval_frame")
        if self._compiler is not None:
            self._tracer = self._compiler.set_eval_frame(None)

    def __exit__(self, *_: object) -> None:
        if self._compiler is not None:
            self._compiler.set_eval_frame(self._tracer)


F = TypeVar("F", bound=Callable[..., None])


def _untraced(function: F) -> F:
    """Have `torch.compile` call the function as it is: to trace it would be to walk all numbers of a ring.

    Where it tries all the same, in a call from code that it gave up on, it gives up on this one at the clock: in a `try`, and
    before a ring's numbers are touched.
    """
    vars(function)["_torchdynamo_disable"] = True
    return function


class Emitter:
    """The emitting end of two rings. Its functions never raise and never wait, in any thread and any signal handler.

    They are made for their emitter rather than methods of it: plain functions are copied and pickled by name, and cost
    no more. The process-wide ones belong to an emitter that is pointed at the rings of the bus opened last: a function that
    looked the bus up and called it would cost a third more.
    """

    __slots__ = ("events", "metrics", "passes", "redactor", "strict", "texts", "unheard", "vetted")

    def __init__(self, events: Pipe | None, metrics: Pipe | None, redactor: Redactor, *, strict: bool = False) -> None:
        self.events: Pipe | None = events
        self.metrics: Pipe | None = metrics
        self.redactor: Redactor = redactor
        self.vetted: Callable[[Any], bool] = redactor.safe.issuperset
        self.texts: set[str] = redactor.texts
        self.passes: Callable[[Any], bool] = redactor.passes
        self.strict: bool = strict
        self.unheard: Callable[[Any, Any], object] | None = None  # asked when there is no ring to emit to

    @property
    def put_metric(self) -> PutMetric:
        """A new function that records metric points here."""

        def put_metric(metric_name: str, metric_value: Any, metric_group: str | None = "torchelastic") -> None:
            """Record one metric point. With no bus open it is discarded.

            The value is a number; NumPy scalars, decimals and CPU tensors of one element give theirs, and a tensor on an
            accelerator is never waited for. What is no number is redacted as metadata are. Callable from any thread, signal
            handler or finalizer; never raises, never waits.
            """
            pipe = self.metrics
            if pipe is None:
                return
            try:
                take, slots, mask, now = pipe
                time = now()
                seq = take()
                try:
                    if not (type(metric_name) is type(metric_group) is str) or (
                        type(metric_value) is not float and type(metric_value) is not int
                    ):
                        raise TypeError  # it may carry a secret, have no end, or be a scalar of NumPy
                    frame = encode((seq, time, metric_name, metric_group, metric_value))
                    if len(frame) > LIMIT:
                        raise OverflowError
                except BaseException as error:
                    if is_the_callers(error):
                        raise
                    with Untraced():
                        frame = self._metric((seq, time, metric_name, metric_group, metric_value))
                slots[seq & mask] = frame
            except RecursionError:  # no room for a call
                return
            except BaseException as error:  # whatever the value is, the training step goes on
                if is_the_callers(error) or self._refuses(error):
                    raise

        return _untraced(put_metric)

    @property
    def record(self) -> RecordEvent:  # noqa: C901 - in one look
        """A new function that records events here."""

        def record(event: Any, destination: str | None = "null") -> None:  # noqa: C901, PLR0912
            """Record one event: `Event`, torch's own `Event`, or anything with name, source, timestamp and metadata.

            `destination` names a logging handler as in torch ("null", "console", ...); the bus's own handlers see every
            event. Values of secret keys (token, password, ...) are redacted; values that JSON cannot hold are coerced. With
            no bus open, "null" discards. Callable from any thread, signal handler or finalizer; never raises, never waits.
            """
            pipe = self.events
            try:
                if pipe is None:
                    return self._unheard(event, destination)
                take, slots, mask, now = pipe
                time = now()
                seq = take()
                try:
                    name, metadata, known = event.name, event.metadata, self.texts
                    if type(event) not in KNOWN or type(metadata) is not dict or len(metadata) > _MANY:
                        raise ValueError  # the long way
                    if not self.vetted(metadata):
                        raise ValueError  # a key seen for the first time, or a secret one: likewise, it redacts
                    if name not in known and not self.passes(name):
                        raise ValueError
                    # One pass, and no call but for a text that is new: two cost a quarter of the whole.
                    for value in metadata.values():
                        kind = type(value)
                        if kind is str:
                            if value not in known and not self.passes(value):
                                raise ValueError  # it carries a secret
                        elif kind not in _SCALARS:
                            raise TypeError  # a value that may have keys of its own
                    source, timestamp = event.source, event.timestamp
                    if not (type(destination) is str and type(timestamp) is int):
                        raise TypeError  # likewise, or it has no end
                    if type(source) is not EventSource and not isinstance(source, str):
                        raise TypeError
                    frame = encode((seq, time, name, destination, source, timestamp, metadata))
                    if len(frame) > LIMIT:
                        raise OverflowError
                except BaseException as error:
                    if is_the_callers(error):
                        raise
                    with Untraced():
                        frame = self._quick((seq, time), event, destination)
                slots[seq & mask] = frame
            except RecursionError:  # as above
                return None
            except BaseException as error:
                if is_the_callers(error) or self._refuses(error):
                    raise
            return None

        return _untraced(record)

    @property
    def record_ours(self) -> RecordOurs:
        """A new function that records events of this package, many a second, in half the time."""

        def record_ours(name: str, metadata: dict[str, int | str | bool]) -> None:
            """Record an event of this worker. As `record`, for a name and texts that this package has made itself."""
            pipe = self.events
            if pipe is None:
                return
            try:
                take, slots, mask, now = pipe
                time = now()
                seq = take()
                try:
                    if not self.vetted(metadata):
                        raise ValueError  # as above
                    frame = encode((seq, time, name, "null", "WORKER", 0, metadata))
                except BaseException as error:
                    if is_the_callers(error):
                        raise
                    with Untraced():
                        frame = self._quick((seq, time), Event(name, EventSource.WORKER, 0, {**metadata}), "null")
                slots[seq & mask] = frame
            except RecursionError:  # as above
                return
            except BaseException as error:
                if is_the_callers(error) or self._refuses(error):
                    raise

        return _untraced(record_ours)

    @property
    def record_rdzv_event(self) -> RecordRdzv:
        """A new function that records rendezvous events here."""

        def record_rdzv_event(event: Any) -> None:
            """Record one rendezvous event: `RdzvEvent`, or torch's own. As `record` otherwise."""
            pipe = self.events
            try:
                if pipe is None:
                    return self._unheard(event, "dynamic_rendezvous")
                take, slots, mask, now = pipe
                time = now()
                seq = take()
                with Untraced():
                    frame = self._event((seq, time), event, "dynamic_rendezvous")
                slots[seq & mask] = frame
            except RecursionError:
                return None
            except BaseException as error:
                if is_the_callers(error) or self._refuses(error):
                    raise
            return None

        return _untraced(record_rdzv_event)

    def _refuses(self, error: BaseException) -> bool:
        return self.strict and type(error) is MetadataError

    def _unheard(self, event: Any, destination: Any) -> None:
        if destination != "null" and self.unheard is not None:
            self.unheard(event, destination)

    def _quick(self, head: tuple[int, int], event: Any, destination: Any) -> bytes:
        """Encode an event with a few values that are easy: NumPy's scalars as numbers, small lists and dicts as they are."""
        try:
            if type(event) in KNOWN and type(event.metadata) is dict and len(event.metadata) <= _FEW:
                fields = self._easy(event, destination)
                if fields is not None and len(frame := encode(head + fields)) <= LIMIT:
                    return frame
        except BaseException as error:
            if is_the_callers(error):
                raise
        return self._event(head, event, destination)

    def _easy(self, event: Any, destination: Any) -> tuple[Any, ...] | None:
        metadata, source = event.metadata, event.source
        if not (isinstance(source, str) and type(event.timestamp) in _SCALARS and isinstance(destination, _TEXT)):
            return None
        if not (self.vetted(metadata) and (event.name in self.texts or self.passes(event.name))):
            return None
        result = metadata
        for key, value in metadata.items():
            kind = type(value)
            if kind in _SCALARS:
                continue
            if kind is str:
                fine = value in self.texts or self.passes(value)
            elif kind is list or kind is tuple:
                fine = len(value) <= _FEW and self._fine(value, len(value) <= _NESTED)
            elif kind is dict:
                fine = len(value) <= _FEW and self._is_fine(value, len(value) <= _NESTED)
            else:
                found = number(value, kind)
                fine = type(found) in _SCALARS
                if result is metadata:
                    result = metadata.copy()
                result[key] = found
            if not fine:
                return None
        return (event.name, destination, source, event.timestamp, result)

    def _is_no_pair(self, value: dict[str, Any]) -> bool:
        """Whether a dict is none of a name and its value, which may be a secret; a name that is known is none's."""
        if type(value.get("value")) in _SCALARS and type(value.get("Value")) in _SCALARS:
            return True
        return self.vetted([value[place] for place in NAMES if place in value])

    def _is_fine(self, value: dict[Any, Any], nested: bool) -> bool:
        return self.vetted(value) and self._fine(value.values(), nested) and self._is_no_pair(value)

    def _fine(self, values: Iterable[Any], nested: bool = False) -> bool:
        """Whether there is nothing but numbers and texts without a secret; one behind a flag may be any.

        If it is said that they may be `nested`, short lists and dicts of such, too; not a text and a value, as a pair is.
        """
        for value in values:
            kind = type(value)
            if kind is str:
                if value[:1] == "-" or not (value in self.texts or (len(value) <= _LONG and self.passes(value))):
                    return False
            elif kind in _SCALARS or kind is NodeState:
                continue
            elif not nested or kind not in _NESTS or len(value) > _NESTED:
                return False
            elif kind is dict:
                if not self._is_fine(value, False):
                    return False
            elif (len(value) == 2 and type(value[0]) is str) or not self._fine(value):
                return False
        return True

    def _metric(self, frame: tuple[Any, ...]) -> bytes:
        """Encode a metric point the long way: its value as a number, or in words."""
        *head, value = frame
        value = as_metric(value)
        try:
            name, group = head[2:]  # a member of an Enum of texts is a text
            if type(value) in _SCALARS and isinstance(name, str) and len(name) <= _MANY and isinstance(group, _TEXT):
                return encode((*head, value))
        except BaseException as error:  # a lone surrogate, a class of one's own
            if is_the_callers(error):
                raise
        return self._hard((*head, value), ("unrecordable", "torchelastic", f"<{class_name(value)}>"))

    def _event(self, head: tuple[int, int], event: Any, destination: Any) -> bytes:
        """Encode an event the long way: redacted, coerced, truncated."""
        fields, why = None, ""
        try:
            fields = rdzv_fields_of(event, destination)
            if fields is not None and self._fine(fields) and len(frame := encode(head + fields)) <= LIMIT:
                return frame
            fields = fields or fields_of(event, destination)
        except BaseException as error:
            if is_the_callers(error):
                raise
            why = class_name(error)
        name = class_name(event)
        lost = ("unrecordable", "null", "WORKER", 0, {"type": f"'{name}'", "error": why})
        if fields is None:
            if self.strict:
                raise MetadataError(f"{name} is not an event: {why}")
            return encode((*head, *lost))
        return self._hard((*head, *fields), lost)

    def _hard(self, frame: tuple[Any, ...], lost: tuple[Any, ...]) -> bytes:
        """Encode what the encoder refused; the last resort is a frame that says only that there was one."""
        try:
            return encode_hard(frame, self.redactor, strict=self.strict)
        except MetadataError:
            raise
        except BaseException as error:
            if is_the_callers(error):
                raise
            return encode((*frame[:2], *lost))
