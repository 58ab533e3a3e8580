"""What a signal's handler raises in the middle of something: whose it is in an emit, and how it waits for what must be whole."""

import os
import signal
from opcode import opmap
from traceback import walk_tb
from types import CodeType, TracebackType
from typing import Any

__all__ = ("Held", "ends_the_program", "is_the_callers")

_HERE = os.path.dirname(os.path.dirname(__file__))
_RAISES = (opmap["RAISE_VARARGS"], opmap["RERAISE"])
_SIGNALS = signal.valid_signals()  # asked once: it takes longer than to ask for their handlers


def is_the_callers(error: BaseException) -> bool:
    """Return whether `error` must go on to the caller of `record()`.

    So must Ctrl-C, and whatever else the handler of a signal raises (SystemExit on SIGTERM, a timeout on SIGALRM): it struck
    here by chance. What the recorded object's own code raises must not, whatever it is.
    """
    trace = error.__traceback__
    if trace is None or (trace.tb_next is None and isinstance(error, Exception)):
        return False  # raised in the emit itself, by the encoder say: the usual case
    while trace.tb_next is not None:
        trace = trace.tb_next
    last = trace.tb_frame.f_code
    if last.co_filename.startswith(_HERE):  # nothing here raises anything but an Exception: a signal did
        return not isinstance(error, Exception)
    if isinstance(error, KeyboardInterrupt) and last.co_code[trace.tb_lasti] not in _RAISES:
        return True  # by Python's own handler, which has no frame
    return _is_a_handlers(error)


def ends_the_program(error: BaseException) -> bool:
    """Return whether a signal's handler raised `error`, in a function of somebody's, so that the program ends: `SystemExit`, say.

    Not of Ctrl-C, which is raised where it strikes.
    """
    return not isinstance(error, (Exception, KeyboardInterrupt)) and _is_a_handlers(error)


class Held:
    """Lets a Ctrl-C, or a SIGTERM's `SystemExit`, wait until every record has its outcome: in the block, or by `hold`."""

    def __init__(self) -> None:
        self._error: BaseException | None = None

    def __enter__(self) -> None:
        """Begin with what must be whole."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        if error is not None:
            self.hold(error)
        return self._error is error is not None

    def hold(self, error: BaseException) -> None:
        """Keep the last one; what is an `Exception` ends nothing but the call that it is raised in."""
        if not isinstance(error, Exception):
            self._error = error

    def hold_a_signals(self, error: BaseException) -> None:
        """Keep what a signal brought into a function of the user's, and not what that raised itself."""
        if isinstance(error, KeyboardInterrupt) or ends_the_program(error):
            self.hold(error)

    def release(self) -> None:
        """Raise what waits."""
        error, self._error = self._error, None
        if error is not None:
            raise error


def _is_a_handlers(error: BaseException) -> bool:
    """Return whether `error` came through a signal's handler."""
    codes = {frame.f_code for frame, _ in walk_tb(error.__traceback__)}
    return not codes.isdisjoint(_handlers())


def _handlers() -> set[CodeType]:
    """Return the code of this process's signal handlers."""
    return {code for number in _SIGNALS if (code := _code(signal.getsignal(number))) is not None}


def _code(handler: Any) -> CodeType | None:
    for name in ("func", "__func__"):  # a partial, a method
        handler = getattr(handler, name, handler)
    code = getattr(handler, "__code__", None)
    return code if isinstance(code, CodeType) else None
