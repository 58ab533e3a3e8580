"""What a worker that failed said of its own end: the exception, the exit or the crash, and where in the script."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from elastic_events.reading.story import Worker

__all__ = ("Fault", "fault_of")


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
    message = worker.message or _message(said)
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
    said = worker.process.said if worker.process is not None else []
    newest = {name: facts for _, name, facts in said}
    if "worker.exception" in newest:
        return newest["worker.exception"]
    thread, exit_ = newest.get("thread.exception"), newest.get("worker.exit")
    if exit_ is not None and (worker.signal or exit_.get("code") != worker.exit_code):
        exit_ = None  # the script caught it, and went on
    if thread is not None and not worker.signal:
        return thread
    return exit_ or {}


def _message(said: Mapping[str, Any]) -> str | None:
    kind, message, thread = _text(said, "type"), _text(said, "message"), _text(said, "thread")
    words = f"{kind}: {message}" if kind and message else kind or message
    return f"{words} (in thread {thread})" if words and thread else words


def _text(facts: Mapping[str, Any], name: str) -> str | None:
    value = facts.get(name)
    return value if isinstance(value, str) else None
