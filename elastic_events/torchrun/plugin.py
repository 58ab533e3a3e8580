"""The entry point that torch calls when its rendezvous is imported, in every process that imports it.

Installed is not asked for: until an agent is created in a process where it is, this module does nothing but put a handler
named "elastic" into torch's table and itself in front of the creation of rendezvous handlers, which tells it when an agent
begins, and imports nothing. Asked for it is by `--event-log-handler=elastic`, `PET_EVENT_LOG_HANDLER=elastic`,
`ELASTIC_EVENTS_SINKS`, `ELASTIC_EVENTS_TORCHRUN` (which `elastic-events run` sets), by an agent whose specification has
`event_log_handler="elastic"`, or by an event recorded for "elastic". What it does then is in
`elastic_events.torchrun.agent_recorder`. The rendezvous back ends stay as they are.
"""

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from functools import wraps
from typing import Any

__all__ = ("register", "requested")


def register() -> Any:
    """Make ready; return what torch wants of this entry point: a maker of rendezvous handlers. Never raises."""
    try:
        _make_ready()
    except Exception as error:  # noqa: BLE001 - whatever this torch is, the job goes on without us
        _say(error)
    return _no_backend


def requested(argv: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Return whether the launcher with these arguments and this environment was asked to record."""
    if environ.get("PET_EVENT_LOG_HANDLER") == "elastic":
        return True
    if environ.get("ELASTIC_EVENTS_SINKS") or environ.get("ELASTIC_EVENTS_TORCHRUN"):
        return True
    words = [word.replace("_", "-") for word in argv]
    return any(
        word.startswith("--event-log")
        and (word.endswith("=elastic") or (word, after) == (word.partition("=")[0], "elastic"))
        for word, after in zip(words, [*words[1:], ""], strict=True)
    )


#: Of the rendezvous that was created last.
_params: list[Any] = []


def _make_ready() -> None:
    from torch.distributed.elastic.events.handlers import _log_handlers
    from torch.distributed.elastic.rendezvous.api import rendezvous_handler_registry as registry

    _log_handlers.setdefault("elastic", _Asked())
    create = registry.create_handler

    def create_handler(params: Any) -> Any:
        _params[:] = [params]
        if not _begin(unasked=False):
            _watch_specifications()
        return create(params)

    registry.create_handler = create_handler


def _watch_specifications() -> None:
    """Begin when an agent's specification asks for us: a program's `LaunchConfig`, of which nothing else tells.

    Torch makes it right after the rendezvous handler, before the agent's first record.
    """
    server = sys.modules.get("torch.distributed.elastic.agent.server.api")
    made = getattr(getattr(server, "WorkerSpec", None), "__post_init__", None)
    if made is None or hasattr(made, "__wrapped__"):
        return

    @wraps(made)
    def post_init(spec: Any, *args: Any) -> None:
        made(spec, *args)
        if getattr(spec, "event_log_handler", None) == "elastic":
            _begin(unasked=True)

    server.WorkerSpec.__post_init__ = post_init  # type: ignore[union-attr]


def _begin(*, unasked: bool) -> bool:
    """Start recording in this process if it is asked for, and say whether it is. Never raises."""
    try:
        if not (unasked or requested(sys.argv, os.environ)):
            return False
        from elastic_events.torchrun.agent_recorder import begin

        params = _params[0] if _params else None
        begin(getattr(params, "run_id", None), getattr(params, "max_nodes", None))
    except Exception as error:
        if any(kind.__name__ == "SignalException" for kind in type(error).__mro__):
            raise  # torch's way to end the job
        _say(error)
    return True


class _Asked(logging.Handler):
    """Stands for the plug-in until it begins: an event for "elastic" asks for it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Begin, and hand the event on."""
        from torch.distributed.elastic.events.handlers import _log_handlers

        if os.environ.get("TORCHELASTIC_RESTART_COUNT"):
            from elastic_events.torchrun.worker_handler import record_in_worker

            record_in_worker(record.msg)
            return
        _begin(unasked=True)
        handler = _log_handlers.get("elastic")
        if handler is not None and handler is not self:
            handler.emit(record)


def _no_backend(_params: Any) -> Any:
    raise ValueError("'elastic' is an event log handler, no rendezvous back end; c10d is one")


def _say(error: BaseException) -> None:
    try:
        text = f"elastic_events: not recording this job: {type(error).__name__}: {error}\n"
        if sys.__stderr__ is not None:  # closed when the program began: the descriptor may be a file of its own by now
            os.write(2, text.encode(errors="backslashreplace"))
    except Exception:  # noqa: BLE001, S110 - no stderr, nobody to tell
        pass
