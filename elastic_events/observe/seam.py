"""What is private in torch, in one place: each answers None, or raises, where a torch has moved it."""

import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

__all__ = (
    "CHECKPOINT_LOGGERS",
    "COLLECTIVE_LOGGERS",
    "batch_iterator",
    "grad_scaler",
    "is_within_a_step",
    "makes_its_state",
    "uncompiled",
)

F = TypeVar("F", bound=Callable[..., Any])

# Torch makes these loggers when it needs them, by these names (torch.distributed.c10d_logger): whoever asks `logging` first
# makes them, and imports nothing of torch.
# Before 2.5 one logger is both.
_BOTH = f"c10d-{logging.NullHandler.__name__}"
CHECKPOINT_LOGGERS = (f"{_BOTH}-dcp_logger", _BOTH)
COLLECTIVE_LOGGERS = (f"{_BOTH}-default", _BOTH)

#: How many callers of a hook are looked at: torch's wrappers of a step, and those of schedulers and of a framework.
_CALLERS = 16


def batch_iterator() -> Any:
    """Return the class whose `__next__` gives each batch of any `DataLoader`."""
    from torch.utils.data import dataloader

    return dataloader._BaseDataLoaderIter  # noqa: SLF001


def grad_scaler() -> Any:
    """Return the class whose `step` may leave out the optimizer's."""
    from torch.amp.grad_scaler import GradScaler

    return GradScaler


def is_within_a_step() -> bool:
    """Whether the step of an optimizer whose hook calls this was called by another one's."""
    from torch.optim import optimizer

    file, frame, found = optimizer.__file__, sys._getframe(1), 0  # noqa: SLF001 - documented
    while frame is not None:
        # What torch wraps each step in. Of one that is compiled, what goes on behind the hooks has a name of its own.
        found += frame.f_code.co_name == "wrapper" and frame.f_code.co_filename == file
        frame = frame.f_back  # type: ignore[assignment]
    return found > 1


def makes_its_state(optimizer: object) -> bool:
    """Whether the step of an optimizer whose hook calls this trains nothing: torch.distributed.checkpoint makes its state so.

    It does that with a rate of 0, which few steps have: only of these the callers are looked at.
    """
    groups = getattr(optimizer, "param_groups", None)
    rate = groups[0].get("lr") if groups else None
    if isinstance(rate, float | int) and rate:
        return False
    frame = sys._getframe(2)  # noqa: SLF001 - documented
    for _ in range(_CALLERS):
        if frame is None or frame.f_code.co_name == "_init_optim_state":
            return frame is not None
        frame = frame.f_back  # type: ignore[assignment]
    return False


def uncompiled(function: F, *, within: bool = True) -> F:
    """Return `function`, which `torch.compile` leaves as it is, and `within` it what it calls: that is ours, and no one's graph.

    Where a script compiles its whole step it would warn of what it cannot trace, and compile forty functions of ours.
    """
    vars(function)["_torchdynamo_disable"] = True  # it is not traced where it is called
    with suppress(AttributeError):  # nor when it runs; an older torch tries to
        frames: Any = sys.modules.get("torch")._C._dynamo.eval_frame  # type: ignore[union-attr]  # noqa: SLF001
        skip, default = frames._FrameAction.SKIP, frames._FrameAction.DEFAULT  # noqa: SLF001
        strategy = frames._FrameExecStrategy(skip, skip if within else default)  # noqa: SLF001
        frames.set_code_exec_strategy(function.__code__, strategy)
    return function
