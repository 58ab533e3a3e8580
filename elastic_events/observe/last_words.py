"""Why a process ends: the exception, the exit, or the crash that it ends with, and where.

| what | how it is seen | event |
|---|---|---|
| an exception that nobody catches | `sys.excepthook`; where a program replaces that later, at exit | `worker.exception` |
| the same in another thread, or handed over by the script | `threading.excepthook`, `sys.excepthook` | `thread.exception` |
| `sys.exit(n)`, `os._exit(n)` | a wrapper of the function | `worker.exit` |
| segfault, abort, bus error | `faulthandler`, into a file beside torch's error file | the agent's `worker.failed` |

Whatever hook there was before is called with what it would have got. Exit code and output stay as they are.
"""

import atexit
import faulthandler
import os
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, BinaryIO, NoReturn

from elastic_events.api import Event, EventSource
from elastic_events.front import record
from elastic_events.observe.folded import fold, is_framework
from elastic_events.observe.guard import guarded
from elastic_events.observe.report import claim

__all__ = ("begin", "raised")

#: Characters of a message that are kept.
MESSAGE = 2000


def begin() -> None:
    """Have this process say why it ends."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    report = claim(path) if path else None
    if path and report is None:
        return  # a program that a rank runs; its end is not the rank's
    words = _Words(path, report)
    _words.append(words)
    words.begin()


def raised(error: Exception) -> None:
    """Take an exception that ends this process, where no hook is called for it."""
    for words in _words:
        words.raised(error, error.__traceback__)


_words: list["_Words"] = []


class _Words:
    """The hooks of one process."""

    def __init__(self, error_file: str | None, report: BinaryIO | None) -> None:
        self._error_file = error_file
        self._pid = os.getpid()
        self._report = report  # faulthandler writes there; open until the end
        self._told: BaseException | None = None

    def begin(self) -> None:
        if self._report is not None and not faulthandler.is_enabled():
            # Of the thread that crashed: to walk all of them can crash again, and end by another signal (cpython#116008).
            faulthandler.enable(self._report, all_threads=False)
            os.register_at_fork(after_in_child=partial(_mute, self._report.fileno(), os.fstat(self._report.fileno())))
        self._hook_exceptions()
        self._hook_exits()
        atexit.register(self._at_exit)

    def _hook_exceptions(self) -> None:
        before, thread_before = sys.excepthook, threading.excepthook

        def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
            with suppress(Exception):  # what its own `__str__` raises, Python would tell of instead of it
                # So Python calls it, for what ends the main thread.
                if error is getattr(sys, "last_value", None) and not _in_session():
                    self.raised(error, trace)
                else:  # so a script calls it, for what it caught; or its hook for threads, for what ended one
                    self._raised_beside(error, trace, threading.current_thread())
            before(kind, error, trace)

        def thread_excepthook(args: threading.ExceptHookArgs, /) -> None:
            with suppress(Exception):
                if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
                    self._raised_beside(args.exc_value, args.exc_traceback, args.thread)
            thread_before(args)

        sys.excepthook, threading.excepthook = excepthook, thread_excepthook

    def _hook_exits(self) -> None:
        leave, leave_at_once = sys.exit, os._exit

        def exit(status: Any = None, /) -> NoReturn:  # noqa: A001 - it stands for that
            self._leaving("sys.exit", status)
            leave(status)

        def _exit(status: int) -> NoReturn:
            self._leaving("os._exit", status)
            leave_at_once(status)

        exit.__doc__, _exit.__doc__ = leave.__doc__, leave_at_once.__doc__
        sys.exit, os._exit = exit, _exit

    @guarded("errors")
    def raised(self, error: BaseException, trace: TracebackType | None) -> None:
        """Tell an exception that ends this process, once."""
        if error is self._told:
            return
        self._told = error
        record(Event("worker.exception", EventSource.WORKER, 0, _about(error, trace)))
        if self._error_file and isinstance(error, Exception) and not os.path.exists(self._error_file):
            _write_error_file(error, trace, self._error_file)

    @guarded("errors")
    def _raised_beside(
        self, error: BaseException, trace: TracebackType | None, thread: threading.Thread | None
    ) -> None:
        """Tell an exception that ends no more than a thread."""
        name = None if thread is None or thread is threading.main_thread() else thread.name
        about = {**_about(error, trace), "thread": name}
        record(Event("thread.exception", EventSource.WORKER, 0, about))

    @guarded("errors")
    def _leaving(self, how: str, status: Any) -> None:
        # As the system cuts it; a text is 1.
        code = status & 0xFF if isinstance(status, int) else int(status is not None)
        if not code and os.getpid() != self._pid:
            return  # a child, as a DataLoader's: that it is done is no news
        if how == "sys.exit" and threading.current_thread() is not threading.main_thread():
            return  # it ends that thread, and nothing else
        message = f"{how}({_shown(repr, status)})"[:MESSAGE]
        record(Event("worker.exit", EventSource.WORKER, 0, {"code": code, "message": message, **_caller()}))

    @guarded("errors")
    def _at_exit(self) -> None:
        error, trace = getattr(sys, "last_value", None), getattr(sys, "last_traceback", None)
        # What ended the main thread left the first of its frames. A test runner keeps there what it caught.
        if (
            isinstance(error, BaseException)
            and trace is not None
            and trace.tb_frame.f_back is None
            and not _in_session()
        ):
            self.raised(error, trace)


def _in_session() -> bool:
    """Whether somebody types: there an exception ends no more than a line, or a cell."""
    return hasattr(sys, "ps1") or bool(sys.flags.interactive)


def _mute(descriptor: int, report: os.stat_result) -> None:
    """Have what a forked child crashes of go nowhere, as without us: it is not the rank's end."""
    with suppress(OSError):
        # In a program that has closed all descriptors, as any may, another file can have the number.
        if os.path.samestat(os.fstat(descriptor), report):
            nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(nowhere, descriptor, inheritable=False)
            os.close(nowhere)


def _about(error: BaseException, trace: TracebackType | None) -> dict[str, Any]:
    """Return the facts of an exception."""
    kind = type(error)
    module = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    text, place = fold("".join(traceback.format_exception(kind, error, trace)))
    about: dict[str, Any] = {"type": f"{module}{kind.__qualname__}", "message": _message(error), "traceback": text}
    if place is not None:
        about["file"], about["line"], about["function"] = place
    return about


def _message(error: BaseException) -> str:
    """Return the message; of one that holds the traceback of a child, what it begins and ends with."""
    text = _shown(str, error)
    if "Traceback (most recent call last)" in text:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        text = f"{lines[0]} {lines[-1]}"
    return text[:MESSAGE]


def _shown(show: Callable[[Any], str], value: Any) -> str:
    """Return the text of a value, whatever the script's own `__str__` or `__repr__` raises."""
    try:
        return show(value)
    except Exception:  # noqa: BLE001 - whatever
        return f"<{show.__name__}() failed>"


def _caller() -> dict[str, Any]:
    """Return the place of the innermost frame of the script."""
    frame = sys._getframe(2)  # noqa: SLF001 - documented
    while frame.f_back is not None and is_framework(frame.f_code.co_filename):
        frame = frame.f_back
    return {"file": frame.f_code.co_filename, "line": frame.f_lineno, "function": frame.f_code.co_name}


def _write_error_file(error: BaseException, trace: TracebackType | None, path: str) -> None:
    """Let torch write the file that its launcher shows. It asks for the traceback of what is being handled: so it is raised.

    Beside its place: an agent that finds half a file fails itself, as where it ends this rank meanwhile, whose peer was gone.
    """
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    try:
        raise error
    except BaseException as handled:  # noqa: BLE001 - it is what ended the script
        handled.__traceback__ = trace  # without our own frame, which raising has put in front
        beside = f"{path}.{os.getpid()}"
        os.environ["TORCHELASTIC_ERROR_FILE"] = beside
        try:
            get_error_handler().record_exception(handled)
        finally:
            os.environ["TORCHELASTIC_ERROR_FILE"] = path
        if os.path.exists(beside):
            os.replace(beside, path)
