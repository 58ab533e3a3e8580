"""What a worker that failed said of its own end: the exception, the exit or the crash, and where in the script."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from elastic_events.reading.story import Worker

__all__ = ("Fault", "fault_of")

#: Nanoseconds that a script may go on training while one of its threads has ended with an exception, until it ends of that.
_UNNOTICED = 10_000_000_000


class Fault(NamedTuple):
    """Why a worker ended, as far as it or what it left says."""

    message: str | None = None  #: type and message of the exception, or the call that ended it
    file: str | None = None  #: of the script's innermost frame
    line: int | None = None
    function: str | None = None
    traceback: str | None = None  #: folded
    stderr: str | None = None  #: its last lines, where its launcher kept them


def fault_of(worker: Worker) -> Fault:
    """Return why `worker` ended: its exception, else its exit, else what it left in its folder. Empty: nobody said."""
    said = _chosen(worker)
    known = {**worker.left, **said} if said else worker.left
    message = _message(said)
    if worker.message and (not said or worker.message.startswith(f"{said.get('type')}".rpartition(".")[2])):
        message = worker.message
    line = known.get("line")
    return Fault(
        message,
        _text(known, "file"),
        line if type(line) is int else None,
        _text(known, "function"),
        _text(known, "traceback"),
        _text(worker.left, "stderr"),
    )


def _chosen(worker: Worker) -> Mapping[str, Any]:
    """Return the facts of the event that tells the end. An exit that another thread's exception led to is that exception."""
    process = worker.process
    if process is None:
        return {}
    newest = {name: (time_ns, facts) for time_ns, name, facts in process.said}
    if "worker.exception" in newest:
        return newest["worker.exception"][1]
    trained_ns = max(process.ends, default=0)
    exit_ns, exit_ = newest.get("worker.exit", (0, None))
    # Where nobody tells the code, an exit may have been caught; but not this one.
    untold = worker.exit_code is None and (_text(exit_ or {}, "message") or "").startswith("os._exit(")
    left = worker.raised_ns is not None if worker.signal or untold else (exit_ or {}).get("code") == worker.exit_code
    if not left or exit_ns < trained_ns:
        exit_ = None  # the script caught it, and went on
    thread_ns, thread = newest.get("thread.exception", (0, None))
    if thread_ns + _UNNOTICED < trained_ns:
        thread = None  # the script did without that thread
    if worker.message:
        return {}  # in its error file, by a launcher that it ran, or by the script itself before it left
    if thread is not None and not worker.signal:
        # Whether it left because of that nobody said: both are told, in their order.
        then = exit_.get("message") if exit_ is not None and exit_ns >= thread_ns else None
        return {**thread, "then": then}
    return exit_ or {}


def _message(said: Mapping[str, Any]) -> str | None:
    kind, message, thread, then = (_text(said, name) for name in ("type", "message", "thread", "then"))
    words = f"{kind}: {message}" if kind and message else kind or message
    words = f"{words} (in thread {thread})" if words and thread else words
    return f"{words}, then {then}" if words and then else words


def _text(facts: Mapping[str, Any], name: str) -> str | None:
    value = facts.get(name)
    return value if isinstance(value, str) else None
