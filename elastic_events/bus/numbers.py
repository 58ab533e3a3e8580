"""Numbers of others: what NumPy, torch and the standard library hold in objects of their own, as Python's int and float."""

import decimal
import fractions
import math
import sys
from typing import Any

__all__ = ("as_metric", "big", "number")

_NUMBER_64 = range(-(2**63), 2**64)


def as_metric(value: Any) -> Any:
    """Return the number that a metric's `value` stands for, of 64 bits at most; what is none as it is.

    What is waited for, or would run code of others (a `__float__`), is not asked.
    """
    try:
        found = number(value, type(value))
        found = value if found is None else found
        return float(found) if type(found) is int and found not in _NUMBER_64 else found
    except Exception:  # noqa: BLE001 - a tensor without a value, an integer past every float: said in words, further down
        return value


def number(value: Any, kind: type) -> Any:
    """Return the number of a scalar, or of an array or tensor of one element; a sentence for larger ones; None for the rest.

    Raises:
        Exception: a tensor that has no value to be read.
    """
    numpy = sys.modules.get("numpy")
    if numpy is not None and issubclass(kind, getattr(numpy, "generic", ())):
        return _generic(value, kind, numpy)
    if numpy is not None and kind is getattr(numpy, "ndarray", None):
        if value.size == 1 and value.dtype.kind in "biuf":
            return _generic(value.flat[0], type(value.flat[0]), numpy)
        return f"<array {value.dtype} {list(value.shape)}>"
    torch = sys.modules.get("torch")
    if torch is not None and issubclass(kind, getattr(torch, "Tensor", ())):
        return _tensor(value, kind, torch)
    if kind in (decimal.Decimal, fractions.Fraction):
        return _exact(value)
    return None


def big(value: int) -> str:
    """Return an integer of more than 64 bits as text."""
    # str() of a huge int raises past sys.get_int_max_str_digits(), and takes quadratic time before that.
    if value.bit_length() > 60_000:  # would not fit into a record
        return f"[an integer of {value.bit_length()} bits]"
    return str(value) if value.bit_length() < 4096 else hex(value)


def _generic(value: Any, kind: type, numpy: Any) -> Any:
    if issubclass(kind, (numpy.number, numpy.bool_)) and not issubclass(kind, numpy.timedelta64):
        item = value.item()
        if type(item) in (bool, int, float):
            return item
        if issubclass(kind, numpy.floating):  # a long double has no Python type of its own
            return float(value)
    return str(value)


def _tensor(value: Any, kind: type, torch: Any) -> Any:
    # A subclass may do anything when it is asked: a DTensor, for one, talks to the other ranks.
    if kind is not torch.Tensor and kind is not torch.nn.Parameter:
        return None
    # Reading a value off an accelerator waits for every kernel before it: that is the user's step to delay, not ours (F57).
    device = value.device.type
    if device != "cpu":
        return f"<{device} tensor: not waited for; record .item() where you can wait>"
    if value.numel() != 1:
        return f"<tensor {str(value.dtype).removeprefix('torch.')} {list(value.shape)}>"
    item = value.item()
    return item if type(item) in (bool, int, float) else str(item)


def _exact(value: Any) -> Any:
    """Return the float of a decimal or a fraction, or None where it would be no number, or another."""
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return None if math.isinf(found) and value not in (math.inf, -math.inf) else found
