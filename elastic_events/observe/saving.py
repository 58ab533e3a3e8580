"""Checkpoints and restores of a script that does not mark them, and collectives that fail.

`torch.save` and `torch.load` of a file are wrapped; what `torch.distributed.checkpoint` and the collectives say, they say to
loggers of their own. A checkpoint holds the steps up to the last one that was observed. An optimizer that is given its state
tells of a restore by other means, pickle or safetensors, of whose checkpoint nothing is known.
"""

import logging
import os
from collections.abc import Callable, Iterable
from functools import wraps
from threading import current_thread, get_ident, main_thread
from typing import Any

from elastic_events.api import Event, EventSource
from elastic_events.front import record
from elastic_events.observe import seam
from elastic_events.observe.guard import guarded
from elastic_events.observe.stepping import steps
from elastic_events.training import checkpoint, restore

__all__ = ("begin_checkpoints", "begin_errors", "loading", "saving")

#: Loads before the first step that are taken for a restore. A script that loads more than these loads its data.
LOADS = 64

#: Paths and identities of files that this process has saved, which are remembered.
SAVED = 8192

_DISTRIBUTED = {"save": checkpoint, "async_save": checkpoint, "load": restore}


class _Open:
    """The spans that are open, and the files that this process has saved."""

    def __init__(self) -> None:
        self.distributed: dict[str, Any] = {}  # by torch's id of the call
        self.threads: set[int] = set()  # that save or load
        self.loads = 0
        self.saved: dict[str, None] = {}  # the last ones

    @property
    def is_within(self) -> bool:
        """Whether what this thread does now is a part of a save or a load that was told."""
        return bool(self.distributed) or get_ident() in self.threads

    def keep(self, file: str) -> None:
        """Remember what was saved, by its path or by what tells it from others."""
        self.saved[file] = None
        if len(self.saved) > SAVED:
            del self.saved[next(iter(self.saved))]


_open = _Open()


def begin_checkpoints() -> None:
    """Observe saving and loading."""
    import torch

    save, load = saving(torch.save, _second), loading(torch.load, _first)
    for owner in (torch, torch.serialization):
        owner.save, owner.load = save, load
    optimizer = torch.optim.Optimizer
    optimizer.load_state_dict = _wrapped(optimizer.load_state_dict, _state_begins)
    _listen(seam.CHECKPOINT_LOGGERS, _distributed)


def begin_errors() -> None:
    """Observe collectives that fail."""
    _listen(seam.COLLECTIVE_LOGGERS, _collective)


class _Torchs(logging.Logger):
    """A logger of torch's own. A script's `dictConfig` switches off all that it does not name, and means others by it."""

    @property
    def disabled(self) -> bool:
        """Never."""
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None:
        """Leave it on."""


def _listen(names: Iterable[str], hear: Callable[[dict[str, Any]], object]) -> None:
    for logger in map(logging.getLogger, names):
        if type(logger) is logging.Logger:
            logger.__class__ = _Torchs
        logger.addHandler(_Listener(hear))


def saving(original: Callable[..., Any], file: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that saves, with a checkpoint around it; `file` says where, of its arguments."""
    return _wrapped(original, lambda *args, **options: _save_begins(file(*args, **options)))


def loading(original: Callable[..., Any], file: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that loads, with a restore around it."""
    return _wrapped(original, lambda *args, **options: _load_begins(file(*args, **options)))


def _wrapped(original: Callable[..., Any], begins: Callable[..., Any]) -> Callable[..., Any]:
    begins = guarded("checkpoints")(begins)

    @wraps(original)
    def call(*args: Any, **options: Any) -> Any:
        begun = begins(*args, **options)
        try:
            result = original(*args, **options)
        except BaseException as error:
            if begun is not None:
                path, span = begun
                _ends(path, span, type(error))
            raise
        # Not `finally` with `sys.exc_info()`: a script that saves what it can in its own handler is in one already.
        if begun is not None:
            _ends(*begun)
        return result

    return seam.uncompiled(call)


def _first(f: Any = None, *_args: Any, **_options: Any) -> Any:
    return f


def _second(_obj: Any = None, f: Any = None, *_args: Any, **_options: Any) -> Any:
    return f


def _save_begins(file: Any) -> Any:
    path = _path(file)
    if path is None or _open.is_within:
        return None
    _open.keep(path)
    _open.threads.add(get_ident())
    beside = {"beside": True} if _is_beside() else {}
    return path, checkpoint(_last_step(), observed=True, path=path, **beside).__enter__()


def _load_begins(file: Any) -> Any:
    path = _path(file)
    if path is None or _open.is_within:
        return None
    own = path in _open.saved or _identity(path) in _open.saved
    if not own and (steps.done or _open.loads >= LOADS):
        return None
    _open.threads.add(get_ident())
    return path, restore(None, observed=True, path=path).__enter__()


def _state_begins(optimizer: Any = None, state_dict: Any = None, **_options: Any) -> Any:
    if _open.is_within or _is_of_no_step(state_dict):
        return None
    about = {}
    if steps.done:
        behind = _behind(optimizer, state_dict)
        if behind <= 0:
            return None
        about["back"] = behind + steps.skipped  # at most: those are not counted by the optimizer
    elif _open.loads:  # it is known where that state is from
        return None
    _open.threads.add(get_ident())
    return None, restore(None, observed=True, call="load_state_dict", **about).__enter__()


def _behind(optimizer: Any, state_dict: Any) -> int:
    """Return how many steps a state is behind that of its optimizer; 0: these do not tell."""
    try:
        own, given = (
            [one["step"] for one in states.values() if one] for states in (optimizer.state, state_dict["state"])
        )
        if getattr(own[0], "is_cuda", False):  # each would wait for the device
            own, given = own[:1], given[:1]
        return int(max(own) - max(given))  # of some weights fewer were made
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return 0


def _is_of_no_step(state_dict: Any) -> bool:
    """Whether its optimizer has made no step, Adagrad's too, which begins with a state: Accelerate moves one to its device so."""
    try:
        return all(not one["step"] for one in state_dict["state"].values())
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return False  # of another shape, which a hook of the optimizer's may know; else the script hears what is wrong


@guarded("checkpoints")
def _ends(path: str | None, span: Any, error: type[BaseException] | None = None) -> None:
    _open.threads.discard(get_ident())
    if path is not None:
        file = _identity(path)
        span.add(file_id=file)
        if file is not None and path in _open.saved:
            _open.keep(file)
    if path not in _open.saved:
        _open.loads += error is None  # else the script may load another
    span.__exit__(error, None, None)
    _passed()


def _is_beside() -> bool:
    # Another thread saves beside a step, which goes on; the main one does not, though the optimizer may step in another.
    return current_thread() is not main_thread() and steps.thread not in (None, get_ident())


def _passed() -> None:
    if not _is_beside():
        steps.passed()


@guarded("checkpoints")
def _distributed(said: dict[str, Any]) -> None:
    mark, call = _DISTRIBUTED.get(said.get("func_name", "")), str(said.get("uuid"))
    if mark is None or "event" not in said:
        return
    if said["event"] == "start":
        _open.loads += mark is restore
        path = said.get("checkpoint_id")
        number = _last_step() if mark is checkpoint else None
        _open.distributed[call] = mark(number, observed=True, path=path, call=said["func_name"]).__enter__()
    elif call in _open.distributed:
        failed = said["event"] == "exception"
        _open.distributed.pop(call).__exit__(RuntimeError if failed else None, None, None)
        _passed()


@guarded("errors")
def _collective(said: dict[str, Any]) -> None:
    if "error" in said and said.get("func_name") not in _DISTRIBUTED:
        names = {"func_name": "function", "pg_name": "group", "backend": "backend", "group_size": "group_size"}
        about = {name: said.get(theirs) for theirs, name in names.items()}
        about["error"] = str(said["error"])[:2000]
        record(Event("collective.failed", EventSource.WORKER, 0, about))


class _Listener(logging.Handler):
    """Hands on what torch logs as a dict."""

    def __init__(self, hear: Callable[[dict[str, Any]], object]) -> None:
        super().__init__()
        self._hear = hear

    def emit(self, record: logging.LogRecord) -> None:
        """Hand it on; no lock of `logging` is held by anything slow."""
        if isinstance(record.msg, dict):
            self._hear(record.msg)


def _path(file: Any) -> str | None:
    """Return the path of what is saved or loaded; None: it goes to memory."""
    name = file if isinstance(file, str | os.PathLike) else getattr(file, "name", None)
    return os.path.abspath(os.fsdecode(name)) if isinstance(name, str | os.PathLike) else None


def _identity(path: str) -> str | None:
    """Return what tells a file from others, also behind a rename: a checkpoint is as a rule written beside its place first."""
    try:
        about = os.stat(path)
    except (OSError, ValueError):  # of no file: with a null character, or one that the locale cannot encode
        return None
    return f"{about.st_size}-{about.st_mtime_ns}"


def _last_step() -> int | None:
    return steps.done - 1 if steps.done else None
