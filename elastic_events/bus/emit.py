"""The hot path: from `record()` and `put_metric()` to a slot of a ring, in one look.

No lock, no wake-up, no system call, no logging, nothing a signal handler or a finalizer could deadlock on (M1, M2). What
it costs: one clock read, one tuple, one call of the msgpack encoder, one list store. The encoder runs here, not in the
drain, so that a later change of the caller's dict does not show (M10). There is one clock read, not two: the drain turns
monotonic time into wall time, since a second read and its nine bytes would cost a fifth of the whole.
"""

import contextlib
from collections.abc import Callable
from typing import Any

from elastic_events.bus.codec import LIMIT, encode, encode_hard
from elastic_events.bus.errors import MetadataError
from elastic_events.bus.redact import Redactor
from elastic_events.bus.ring import Pipe

__all__ = ("Emitter",)

_SCALARS = frozenset({str, int, float, bool, type(None)})


class Emitter:
    """The emitting end of two rings. Its methods never raise and never wait, in any thread and any signal handler.

    The module functions `record` and `put_metric` are the bound methods of one process-wide emitter, which is pointed at
    the rings of the bus opened last: a function that looked the bus up and called it would cost a third more.
    """

    __slots__ = ("events", "metrics", "redactor", "strict", "unheard", "vetted")

    def __init__(self, events: Pipe | None, metrics: Pipe | None, redactor: Redactor, *, strict: bool = False) -> None:
        self.events = events
        self.metrics = metrics
        self.redactor = redactor
        self.vetted = redactor.safe.issuperset
        self.strict = strict
        self.unheard: Callable[[Any, Any], object] | None = None  # asked when there is no ring to emit to

    def put_metric(self, metric_name: str, metric_value: Any, metric_group: str | None = "torchelastic") -> None:
        """Record one metric point. With no bus open it is discarded.

        The value is a number; NumPy scalars and CPU tensors of one element give theirs, and a tensor on an accelerator is
        never waited for. Callable from any thread, signal handler or finalizer; never raises, never waits.
        """
        pipe = self.metrics
        if pipe is None:
            return
        take, slots, mask, now = pipe
        seq = take()
        try:
            frame = encode((seq, now(), metric_name, metric_group, metric_value))
            if len(frame) > LIMIT:
                raise OverflowError
        except Exception:  # noqa: BLE001 - whatever the value is, the training step goes on
            frame = self._hard((seq, now(), metric_name, metric_group, metric_value))
        slots[seq & mask] = frame

    def record(self, event: Any, destination: str | None = "null") -> None:
        """Record one event: `Event`, torch's own `Event`, or anything with name, source, timestamp and metadata.

        `destination` names a logging handler as in torch ("null", "console", ...); the bus's own handlers see every event.
        Values of secret keys (token, password, ...) are redacted; values that JSON cannot hold are coerced. With no bus
        open, "null" discards. Callable from any thread, signal handler or finalizer; never raises, never waits.
        """
        pipe = self.events
        if pipe is None:
            return self._unheard(event, destination)
        take, slots, mask, now = pipe
        seq = take()
        try:
            metadata = event.metadata
            if not self.vetted(metadata):
                raise ValueError  # a key seen for the first time, or a secret one: the long way, which redacts
            for value in metadata.values():
                if type(value) not in _SCALARS:
                    raise TypeError  # a value that may have keys of its own
            frame = encode((seq, now(), event.name, destination, event.source, event.timestamp, metadata))
            if len(frame) > LIMIT:
                raise OverflowError
        except Exception:  # noqa: BLE001 - as above
            frame = self._event((seq, now()), event, destination)
        slots[seq & mask] = frame
        return None

    def record_rdzv_event(self, event: Any) -> None:
        """Record one rendezvous event: `RdzvEvent`, or torch's own. As `record` otherwise."""
        pipe = self.events
        if pipe is None:
            return self._unheard(event, "dynamic_rendezvous")
        take, slots, mask, now = pipe
        seq = take()
        slots[seq & mask] = self._rdzv((seq, now()), event)
        return None

    def _unheard(self, event: Any, destination: Any) -> None:
        if destination != "null" and self.unheard is not None:
            with contextlib.suppress(Exception):  # no drain could be started; the emitter is not the one to tell
                self.unheard(event, destination)

    def _event(self, head: tuple[int, int], event: Any, destination: Any) -> bytes:
        """Encode an event the long way: redacted, coerced, truncated."""
        if not hasattr(event, "metadata") and hasattr(event, "node_state"):
            return self._rdzv(head, event)
        try:
            fields = (event.name, destination, event.source, event.timestamp, event.metadata)
        except Exception as error:
            if self.strict:
                raise MetadataError(f"{type(event).__name__} is not an event: {error}") from error
            fields = (
                "unrecordable",
                destination,
                "WORKER",
                0,
                {"type": type(event).__name__, "error": type(error).__name__},
            )
        return self._hard(head + fields)

    def _rdzv(self, head: tuple[int, int], event: Any) -> bytes:
        try:
            fields = (
                *(event.name, "dynamic_rendezvous", event.run_id, event.message, event.hostname, event.pid),
                *(event.node_state, event.master_endpoint, event.rank, event.local_id, event.error_trace),
            )
            frame = encode(head + fields)
            return frame if len(frame) <= LIMIT else self._hard(head + fields)
        except AttributeError as error:
            name = type(event).__name__
            return self._hard((*head, "unrecordable", "null", "WORKER", 0, {"type": name, "error": str(error)}))
        except Exception:  # noqa: BLE001 - as above
            return self._hard(head + fields)

    def _hard(self, frame: tuple[Any, ...]) -> bytes:
        """Encode what the encoder refused; the last resort is a frame that says only that there was one."""
        try:
            frame_bytes = encode_hard(frame, self.redactor.is_secret, strict=self.strict)
        except MetadataError:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            frame_bytes = encode((*frame[:2], "unrecordable", "null", "WORKER", 0, {"error": type(error).__name__}))
        return frame_bytes
