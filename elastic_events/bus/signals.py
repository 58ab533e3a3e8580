"""Which exception in the middle of an emit is none of the recorded object's: what a signal's handler raised."""

import os
import signal
from opcode import opmap
from types import CodeType
from typing import Any

__all__ = ("is_the_callers",)

_HERE = os.path.dirname(os.path.dirname(__file__))
_RAISES = (opmap["RAISE_VARARGS"], opmap["RERAISE"])


def is_the_callers(error: BaseException) -> bool:
    """Return whether `error` must go on to the caller of `record()`.

    So must Ctrl-C, and whatever else the handler of a signal raises (SystemExit on SIGTERM, a timeout on SIGALRM): it struck
    here by chance. What the recorded object's own code raises must not, whatever it is.
    """
    trace = error.__traceback__
    if trace is None or (trace.tb_next is None and isinstance(error, Exception)):
        return False  # raised in the emit itself, by the encoder say: the usual case
    codes = {trace.tb_frame.f_code}
    while trace.tb_next is not None:
        trace = trace.tb_next
        codes.add(trace.tb_frame.f_code)
    last = trace.tb_frame.f_code
    if last.co_filename.startswith(_HERE):  # nothing here raises anything but an Exception: a signal did
        return not isinstance(error, Exception)
    if isinstance(error, KeyboardInterrupt) and last.co_code[trace.tb_lasti] not in _RAISES:
        return True  # by Python's own handler, which has no frame
    return not codes.isdisjoint(_handlers())


def _handlers() -> set[CodeType]:
    """Return the code of this process's signal handlers."""
    return {code for number in signal.valid_signals() if (code := _code(signal.getsignal(number))) is not None}


def _code(handler: Any) -> CodeType | None:
    for name in ("func", "__func__"):  # a partial, a method
        handler = getattr(handler, name, handler)
    code = getattr(handler, "__code__", None)
    return code if isinstance(code, CodeType) else None
