"""When a step begins, with a clock that stands still."""

import gc
from collections.abc import Iterator

import pytest

from elastic_events.observe.stepping import Steps
from elastic_events.testing import Capture, capture


class Loop:
    """A loop of steps, each thing of which takes a second of its clock."""

    def __init__(self) -> None:
        self.now = 0
        self.steps = Steps(lambda: self.now)

    def fetch(self, loader: int = 1) -> None:
        """Get a batch."""
        began, self.now = self.now, self.now + 1
        self.steps.fetched(loader, began)

    def work(self, seconds: int = 1) -> None:
        """Compute something."""
        self.now += seconds

    def step(self, optimizer: object = None) -> None:
        """Let the optimizer step, or another one."""
        self.steps.before(optimizer or self)
        self.steps.after(optimizer or self)


@pytest.fixture
def captured() -> Iterator[Capture]:
    """What is recorded meanwhile."""
    with capture() as found:
        yield found


def took(captured: Capture) -> list[int]:
    """How long the steps took."""
    return [event.metadata["took_ns"] for event in captured.events]


def test_a_loader_that_is_asked_one_batch_ahead(captured: Capture) -> None:
    """As Accelerate does: that it has no more batches is known in the midst of the last step, which is one all the same."""
    loop = Loop()
    loop.fetch()
    for last in (False, True):
        loop.fetch()
        loop.work(10)
        if last:
            loop.steps.exhausted(1)
        else:
            loop.fetch()
        loop.work(10)
        loop.step()
    assert took(captured) == [22, 20]
    loop.fetch()
    loop.work(10)
    loop.step()
    assert took(captured)[2] == 10  # of the next epoch, behind its batch


def test_an_evaluation_without_a_loader_is_in_no_step(captured: Capture) -> None:
    """It ends where the model trains again; a model that is put into training mode with its batch at hand loses nothing."""
    loop = Loop()
    for _ in range(2):
        loop.work(10)
        loop.steps.mode(True)
        loop.step()
        loop.steps.mode(False)
        loop.work(100)
        loop.steps.mode(True)
    assert took(captured) == [0, 10]
    loop.steps.mode(False)
    loop.fetch()
    loop.steps.mode(True)
    loop.work(10)
    loop.step()
    assert took(captured)[2] == 10


def test_an_evaluation_between_steps_is_in_none(captured: Capture) -> None:
    """Its loader has no more batches before the next step begins, which may have none of a loader's."""
    loop = Loop()
    for _ in range(2):
        loop.fetch()
        loop.work(10)
        loop.step()
        loop.fetch(loader=2)
        loop.work(100)
        loop.steps.exhausted(2)
    loop.work(10)
    loop.step()
    assert took(captured) == [10, 10, 10]


def test_a_batch_of_each_of_two_loaders(captured: Capture) -> None:
    """The loop waits for both; the step begins with the second one."""
    loop = Loop()
    for _ in range(3):
        loop.fetch(loader=1)
        loop.fetch(loader=2)
        loop.work(10)
        loop.step()
    assert took(captured) == [10, 10, 10]
    assert [event.metadata["data_ns"] for event in captured.events] == [2, 2, 2]


class Optimizer:
    """One of several."""


def numbers(captured: Capture) -> list[object]:
    """The numbers of the steps."""
    return [event.metadata["step"] for event in captured.events if event.name == "step.observed"]


@pytest.mark.parametrize("loads", [True, False])
def test_an_optimizer_that_takes_over(captured: Capture, *, loads: bool) -> None:
    """A second training in the same script, with an optimizer of its own: each of its steps is one, the first too."""
    loop = Loop()
    for optimizer in (Optimizer(), Optimizer(), Optimizer()):
        for _ in range(5):
            if loads:
                loop.fetch()
            loop.step(optimizer)
    assert numbers(captured) == list(range(15))


def test_many_trainings_of_a_step_each(captured: Capture) -> None:
    """As in a search: an optimizer that is gone steps no more, so the next one is none of its round."""
    loop = Loop()
    for _ in range(6):
        loop.fetch()
        loop.step(Optimizer())
        gc.collect()
    assert numbers(captured) == list(range(6))


def test_an_optimizer_that_joins(captured: Capture) -> None:
    """Where a second optimizer steps behind the first one from some step on, there are no more steps for it."""
    loop, first, second = Loop(), Optimizer(), Optimizer()
    for number in range(12):
        loop.fetch()
        loop.step(first)
        if number >= 4:
            loop.step(second)
    assert numbers(captured) == list(range(12))


def test_an_optimizer_that_comes_back(captured: Capture) -> None:
    """Where one steps twice for each step of the other, nobody knows what a step is: it is said before the second round's."""
    loop, first, second = Loop(), Optimizer(), Optimizer()
    for _ in range(3):
        loop.fetch()
        loop.step(first)
        loop.step(second)
        loop.step(second)
    assert numbers(captured) == [0, 1, 2, *(f"~{number}" for number in range(3, 9))]
    assert [event.name for event in captured.events].count("observe.unknown") == 1


class Wrapper(Loop):
    """An optimizer around another one, whose groups have the same rate."""

    def __init__(self) -> None:
        super().__init__()
        self.param_groups = [{"lr": 0.0}]

    def within(self) -> None:
        """Step, and have the other one step within."""
        self.steps.before(self)
        self.step()
        self.steps.after(self)

    def _init_optim_state(self) -> None:
        self.within()


def test_a_step_within_one_that_makes_the_state_of_optimizers(captured: Capture) -> None:
    """Neither of them is a step: torch.distributed.checkpoint makes the state of an optimizer that wraps others, too."""
    loop = Wrapper()
    loop._init_optim_state()  # named as torch's own
    assert (loop.steps.done, loop.steps.entered, captured.events) == (0, 0, [])
