"""The steps of a training loop, as its optimizers tell them, and how long it waited for data.

A step ends when the optimizer has stepped. It begins with the batch that it got: behind the first fetch of the last run of
fetches from one DataLoader, so that an evaluation before it is none of it. Without a DataLoader it begins where the step before
it, or what came after that (a checkpoint, or an evaluation that `model.train()` follows), ended. Of several optimizers (a GAN's,
one a parameter) the last of a round ends the step; where they take turns in no fixed round, steps have no number, and
`observe.unknown` says why.
"""

import threading
from collections.abc import Callable
from functools import wraps
from time import monotonic_ns
from typing import Any

from elastic_events.front import record_ours
from elastic_events.observe import seam
from elastic_events.observe.guard import failed, guarded, hook, is_off
from elastic_events.observe.rounds import Rounds

__all__ = ("Steps", "begin_data", "begin_steps", "steps")


class Steps:
    """The steps of this process. Its methods are called by whichever thread trains, one at a time."""

    def __init__(self, clock: Callable[[], int] = monotonic_ns) -> None:
        self.done: int = 0  #: steps that have ended
        self.skipped: int = 0  #: of these, by a GradScaler
        self.thread: int | None = None  #: in which the last one did
        self._clock = clock
        self.entered: int = 0  #: steps of optimizers that have begun since one ended that was within no other
        self._since: int | None = None  # from here on the next step may have begun
        self._batch: int | None = None  # the first batch of the last run of fetches came then
        self._loader = 0  # that gave it
        self._trains = 0  # the one that gave those of the last step
        self._waited = 0  # for these batches
        self.rounds: Rounds = Rounds()
        self._evaluates = False  # a module was put into evaluation mode since the last step
        self._trains_not = 0  # steps that are none, one in another, in which the optimizer is

    def before(self, optimizer: object) -> None:
        """An optimizer begins to step."""
        if seam.makes_its_state(optimizer):
            self._trains_not += 1
            return
        self._trains_not = 0
        self.entered += 1
        if self._since is None:
            self._since = self._clock()

    def after(self, optimizer: object, *, skipped: bool = False) -> None:
        """An optimizer has stepped. One within another, as wrappers have it, is no step of its own."""
        if self._trains_not:
            self._trains_not -= 1
            return
        # One that began alone is within none. Of more, either one is within another or an exception ended it.
        if self.entered != 1 and seam.is_within_a_step():
            return
        self.entered = 0
        if id(optimizer) == self.rounds.only:
            self._ended(skipped)
            return
        ended = self.rounds.ended(optimizer, self.done, self._batch is not None)
        if ended > 1:  # the one before this was a step, too: how long it took is not known any more
            record_ours("step.observed", {"step": self.done, "took_ns": 0, "data_ns": 0})
            self.done += 1
        if ended:
            self._ended(skipped)

    def fetched(self, loader: int, began: int) -> None:
        """A DataLoader has given a batch that was asked for at `began`."""
        now = self._clock()
        if self._batch is None:
            self._batch, self._loader, self._waited = now, loader, 0
        elif self._loader != loader:
            self._batch, self._loader = now, loader  # a step may have a batch of each of several
        self._waited += now - began

    def exhausted(self, loader: int) -> None:
        """A DataLoader has no more batches. That of the step that runs was asked for one ahead: the step goes on with it."""
        if self._batch is not None and loader == self._trains:
            self._loader = 0  # what is fetched next begins another run
        else:
            self.passed()

    def passed(self) -> None:
        """Something else than training has ended: a checkpoint, or an evaluation."""
        self._since, self._batch = self._clock(), None

    def mode(self, training: bool) -> None:
        """A module is put into training mode, or out of it: an evaluation ends where it trains again, with no batch at hand."""
        if training and self._evaluates and self._batch is None:
            self.passed()
        self._evaluates = not training

    def _ended(self, skipped: bool) -> None:
        now, number = self._clock(), self.done
        began = self._since if self._batch is None else self._batch
        about: dict[str, Any] = {
            "step": f"~{number}" if self.rounds.unknown else number,
            "took_ns": 0 if began is None else now - began,
            "data_ns": self._waited,
        }
        if skipped:
            about["skipped"] = True
            self.skipped += 1
        record_ours("step.observed", about)
        self.done, self.thread = number + 1, threading.get_ident()
        self._trains = self._loader
        self._since, self._batch, self._waited = now, None, 0


#: Of this process.
steps: Steps = Steps()


def begin_steps() -> None:
    """Count the steps of all optimizers."""
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    register_optimizer_step_pre_hook(hook("steps", steps.before))
    register_optimizer_step_post_hook(hook("steps", steps.after))
    _watch_scaler(seam.grad_scaler())
    _watch_mode()


def _watch_scaler(scaler: Any) -> None:
    """Count the steps that a GradScaler leaves out since a gradient was infinite: the loop counts them, too."""
    original, scaled = scaler.step, seam.uncompiled(_scaled)

    @wraps(original)
    def step(self: Any, optimizer: Any, *args: Any, **options: Any) -> Any:
        done, waits = steps.done, len(steps.rounds.stepped)
        result = original(self, optimizer, *args, **options)
        scaled(optimizer, steps.done == done and len(steps.rounds.stepped) == waits)
        return result

    scaler.step = seam.uncompiled(step, within=False)


@guarded("steps")
def _scaled(optimizer: Any, left_out: bool) -> None:
    if left_out and not (steps.entered and seam.is_within_a_step()):
        steps.after(optimizer, skipped=True)


def _watch_mode() -> None:
    """See where an evaluation ends that has no DataLoader of its own: `model.eval()` before it, `model.train()` behind it."""
    from torch.compiler import is_compiling
    from torch.nn import Module

    original = Module.train

    @wraps(original)
    def train(self: Any, mode: bool = True) -> Any:
        # Asked first: what is compiled is to hold nothing of ours. Each module calls it of all that are in it.
        if not is_compiling() and steps._evaluates is bool(mode):  # noqa: SLF001
            _mode(bool(mode))
        return original(self, mode)

    Module.train = train


@guarded("steps")
def _mode(training: bool) -> None:
    if threading.current_thread() is threading.main_thread():
        steps.mode(training)


def begin_data() -> None:
    """Measure how long the loop waits for each batch of a DataLoader, and see which batch a step begins with."""
    iterator = seam.batch_iterator()
    original = iterator.__next__
    trains, me = threading.get_ident(), threading.get_ident  # the thread that imports torch
    fetched = steps.fetched

    @wraps(original)
    def following(self: Any) -> Any:
        began = monotonic_ns()
        try:
            batch = original(self)
        except StopIteration:
            _exhausted(self, threading.get_ident() == trains)
            raise
        # What another thread fetches ahead says nothing of when a step begins.
        if me() == trains and not is_off("data"):
            try:
                fetched(id(self), began)
            except Exception as error:
                if not failed("data", "fetched", error):
                    raise
        return batch

    iterator.__next__ = seam.uncompiled(following)


@guarded("data")
def _exhausted(iterator: Any, trains: bool) -> None:
    if trains:
        steps.exhausted(id(iterator))
