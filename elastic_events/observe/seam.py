"""What is private in torch, in one place: each answers None, or raises, where a torch has moved it."""

import logging
from typing import Any

__all__ = ("CHECKPOINT_LOGGER", "COLLECTIVE_LOGGER", "batch_iterator", "grad_scaler")

# Torch makes these loggers when it needs them, by these names (torch.distributed.c10d_logger): whoever asks `logging` first
# makes them, and imports nothing of torch.
CHECKPOINT_LOGGER = f"c10d-{logging.NullHandler.__name__}-dcp_logger"
COLLECTIVE_LOGGER = f"c10d-{logging.NullHandler.__name__}-default"


def batch_iterator() -> Any:
    """Return the class whose `__next__` gives each batch of any `DataLoader`."""
    from torch.utils.data import dataloader

    return dataloader._BaseDataLoaderIter  # noqa: SLF001


def grad_scaler() -> Any:
    """Return the class whose `step` may leave out the optimizer's."""
    from torch.amp.grad_scaler import GradScaler

    return GradScaler
