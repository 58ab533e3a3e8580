"""Accelerate: steps as its optimizers take them, and checkpoints from their beginning to their end.

accelerator = watch(Accelerator())

The loop is the script's own: what an epoch or an evaluation is, only the script knows.
"""

import os
from typing import Any, TypeVar

from elastic_events.observe.saving import loading, saving
from elastic_events.observe.switch import begin

__all__ = ("watch",)

A = TypeVar("A")


def watch(accelerator: A) -> A:
    """Observe the steps of this process, and each `save_state` and `load_state` of `accelerator` as one; return it.

    Without it, each file that they write is taken for a checkpoint. Where the environment asks for certain parts, those
    are observed.
    """
    begin("steps,data,checkpoints")
    it: Any = accelerator

    def folder(path: Any = None, *_: Any, **options: Any) -> Any:
        given = path or options.get("output_dir") or options.get("input_dir")
        return given or os.path.join(it.project_dir, "checkpoints")

    it.save_state, it.load_state = saving(it.save_state, folder), loading(it.load_state, folder)
    return accelerator
