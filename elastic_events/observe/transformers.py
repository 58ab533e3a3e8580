"""Transformers: steps by `global_step`, epochs, evaluations, and checkpoints from their beginning to their end.

trainer = transformers.Trainer(..., callbacks=[ElasticCallback()])
"""

from typing import TYPE_CHECKING, Any

from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from elastic_events.observe.marks import Marks

__all__ = ("ElasticCallback",)

#: Of this process: a callback is not told who trains, nor that an evaluation, a save or a load begins. The class is asked.
_marks = Marks()


if TYPE_CHECKING:  # a checker may not have the package

    class _Callback: ...
else:
    _Callback = TrainerCallback


class ElasticCallback(_Callback):
    """Marks what a Trainer does, by the methods that Transformers calls."""

    def __init__(self) -> None:
        _marks.around(Trainer, "evaluate", "evaluation", _last_step)
        _marks.around(Trainer, "_save_checkpoint", "checkpoint", _last_step)
        _marks.around(Trainer, "_load_from_checkpoint", "restore", _step_of)

    def on_epoch_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        _marks.begin("epoch", int(state.epoch or 0))

    def on_epoch_end(self, *_: Any, **_options: Any) -> None:
        _marks.end("epoch")

    def on_step_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        _marks.begin("step", state.global_step)

    def on_step_end(self, *_: Any, **_options: Any) -> None:
        _marks.end("step")

    def on_train_end(self, *_: Any, **_options: Any) -> None:
        _marks.close()


def _step_of(_trainer: Any, folder: Any, *_: Any) -> int | None:
    count = str(folder).rstrip("/").rpartition(f"{PREFIX_CHECKPOINT_DIR}-")[2]
    return int(count) - 1 if count.isdecimal() and int(count) else None


def _last_step(trainer: Any, *_: Any) -> int | None:
    return trainer.state.global_step - 1 if trainer.state.global_step else None
