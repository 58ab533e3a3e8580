"""Lightning: steps by `global_step`, epochs, evaluations, and checkpoints from their beginning to their end.

`Trainer(callbacks=[ElasticCallback()])`. Where the environment asks to observe, each `Trainer` gets one by itself, by
Lightning's entry point for callbacks.
"""

import sys
from collections.abc import Collection
from importlib import import_module
from typing import TYPE_CHECKING, Any

from elastic_events.observe.marks import Marks

__all__ = ("ElasticCallback",)

# Either of its two packages: callbacks of one do for the other.
_PACKAGE = "pytorch_lightning" if "pytorch_lightning" in sys.modules else "lightning.pytorch"
if TYPE_CHECKING:  # a checker may not have them

    class _Callback: ...
else:
    _Callback = import_module(f"{_PACKAGE}.callbacks").Callback


class ElasticCallback(_Callback):
    """Marks what a Trainer does, by the methods that Lightning calls. Of several, the first one does."""

    def __init__(self, parts: Collection[str] = ("steps", "checkpoints")) -> None:
        self._marks = Marks(parts)
        self._step = 0  # the number of the step that is marked

    def setup(self, trainer: Any, *_: Any, **_stage: Any) -> None:
        if self is not next(one for one in trainer.callbacks if isinstance(one, ElasticCallback)):
            self._marks = Marks(())
        self._marks.around(trainer, "save_checkpoint", "checkpoint", lambda *_: trainer.global_step - 1)
        self._marks.around(trainer.strategy, "load_checkpoint", "restore", lambda *_: None, "global_step")

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        self._step = trainer.global_step
        self._marks.begin("epoch", trainer.current_epoch)  # Lightning says none where it goes on within one
        self._marks.begin("step", self._step)  # of several batches, it has begun

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step != self._step:
            self._marks.end("step")

    def on_train_epoch_end(self, *_: Any) -> None:
        self._marks.end("epoch")

    def on_validation_start(self, trainer: Any, *_: Any) -> None:
        self._marks.begin("evaluation", trainer.global_step - 1 if trainer.global_step else None)

    def on_validation_end(self, *_: Any) -> None:
        self._marks.end("evaluation")

    def on_train_end(self, *_: Any) -> None:
        self._marks.close()  # a step that got no more batches, too

    def on_exception(self, _trainer: Any, _module: Any, exception: BaseException) -> None:
        self._marks.close(type(exception))
