"""What torch says to its own loggers."""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from elastic_events.observe import saving, seam
from elastic_events.testing import capture


@pytest.fixture
def both() -> Iterator[logging.Logger]:
    """The one logger that older torches have for checkpoints and collectives; what was changed of all is undone."""
    loggers = [logging.getLogger(name) for name in {*seam.CHECKPOINT_LOGGERS, *seam.COLLECTIVE_LOGGERS}]
    before = [(logger, type(logger), logger.handlers[:], logger.level) for logger in loggers]
    logger = logging.getLogger("c10d-NullHandler")
    logger.setLevel(logging.DEBUG)
    yield logger
    for each, kind, handlers, level in before:
        each.__class__, each.handlers[:] = kind, handlers
        each.setLevel(level)


def test_an_older_torch_has_one_logger_for_all(both: logging.Logger) -> None:
    """Before torch 2.5 checkpoints and collectives share a logger: each is heard once, as what it is."""
    saving._listen(seam.CHECKPOINT_LOGGERS, saving._distributed)
    saving.begin_errors()
    with capture() as captured:
        both.debug({"func_name": "all_gather", "error": "no peer"})
        both.debug({"func_name": "save", "event": "start", "checkpoint_id": "here"})
        both.disabled = True  # as a script's `dictConfig` does
        both.debug({"func_name": "save", "event": "exception", "error": "disk is full", "checkpoint_id": "here"})
        both.debug({"func_name": "save", "error": "disk is full"})
    assert [event.name for event in captured.events] == [
        "collective.failed",
        "checkpoint.started",
        "checkpoint.ended",
    ]
    assert captured.events[-1].metadata["error"] == "RuntimeError"


def test_a_file_that_cannot_be_named_ends_its_checkpoint(tmp_path: Path) -> None:
    """A save that the script survives is a checkpoint that failed, not one that never ended, and the next one is observed."""

    def write(path: str) -> None:
        Path(path).write_text("weights", "utf-8")

    save = saving.saving(write, lambda path: path)
    with capture() as captured:
        with pytest.raises(ValueError, match="null"):
            save("half\0name")
        save(str(tmp_path / "whole"))
    assert [(event.name, event.metadata.get("error")) for event in captured.events] == [
        ("checkpoint.started", None),
        ("checkpoint.ended", "ValueError"),
        ("checkpoint.started", None),
        ("checkpoint.ended", None),
    ]


def test_what_is_saved_while_an_exception_is_handled_is_no_failure(tmp_path: Path) -> None:
    """A script that saves in its own `except` block, as one that is interrupted, has a checkpoint that succeeded."""
    save = saving.saving(lambda path: Path(path).write_text("weights", "utf-8"), lambda path: path)
    with capture() as captured:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            save(str(tmp_path / "last.pt"))
    assert [event.metadata.get("error") for event in captured.events] == [None, None]


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """What gives an optimizer of a process that has done no step a state; it wants a dict with a state."""
    monkeypatch.setattr(saving, "_open", saving._Open())
    monkeypatch.setattr(saving.steps, "done", 0)

    def load_state_dict(_optimizer: object, state_dict: Any) -> None:
        state_dict["state"].items()

    return partial(saving._wrapped(load_state_dict, saving._state_begins), object())


@pytest.mark.parametrize("state", [{}, {0: {"step": 0.0, "sum": 0.1}, 1: {"step": 0.0, "sum": 0.1}}])
def test_a_state_of_no_step_is_no_restore(state: dict[int, Any], give: Callable[[Any], None]) -> None:
    """Accelerate gives each optimizer its own state; Adagrad's has one from the beginning: that was told as a restore."""
    with capture() as captured:
        give({"state": state})
    assert not captured.events


@pytest.mark.parametrize("entry", [{"step": 3.0}, {"momentum_buffer": 0.5}, None])
def test_a_state_of_some_steps_is_a_restore(entry: Any, give: Callable[[Any], None]) -> None:
    """Also where some of its weights have made none, or nothing says how many they made; once, for all optimizers."""
    with capture() as captured:
        for _ in range(2):
            give(state_dict={"state": {0: {"step": 0.0}, 1: entry}})  # type: ignore[call-arg]
    assert [event.name for event in captured.events] == ["restore.started", "restore.ended"]


class Optimizer:
    """As much of one as tells how many steps it made."""

    def __init__(self, entry: Any) -> None:
        self.state = {"weight": entry}


@pytest.mark.parametrize(
    ("own", "given", "back"),
    [
        ({"step": 30}, {"step": 22.0}, 8),
        ({"step": 30}, {"step": 30}, None),  # as where a model is built anew around it
        ({"step": 30}, {"step": 40}, None),
        ({"step": 30}, {"step": 0}, None),  # another fold begins
        ({"momentum_buffer": 1}, {"momentum_buffer": 1}, None),
        ({"step": "many"}, {"step": "few"}, None),
    ],
)
def test_a_state_that_takes_an_optimizer_back_is_a_restore(
    monkeypatch: pytest.MonkeyPatch, own: Any, given: Any, back: int | None
) -> None:
    """As one that was kept in memory, or in the file of an attempt before, when the loss rises."""
    monkeypatch.setattr(saving, "_open", saving._Open())
    monkeypatch.setattr(saving.steps, "done", 30)
    monkeypatch.setattr(saving.steps, "skipped", 0)
    load = saving._wrapped(lambda _optimizer, _state: None, saving._state_begins)
    with capture() as captured:
        load(Optimizer(own), {"state": {0: given}})
    assert [event.metadata.get("back") for event in captured.events if event.name == "restore.started"] == (
        [back] if back else []
    )


@pytest.mark.parametrize("odd", [None, {}, {"state": None}, [1]])
def test_a_state_that_an_optimizer_refuses_switches_nothing_off(odd: Any, give: Callable[[Any], None]) -> None:
    """A script that catches that goes on, with another state or none: no checkpoint was observed from then on."""
    with capture() as captured:
        with pytest.raises((AttributeError, LookupError, TypeError)):
            give(odd)
        give({"state": {0: {"step": 3.0}}})
    told = [(event.name, event.metadata.get("error") is not None) for event in captured.events]
    ends = [("restore.started", False), ("restore.ended", True), ("restore.started", False), ("restore.ended", False)]
    assert told == ends
