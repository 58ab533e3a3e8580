"""What torch says to its own loggers."""

import logging
from collections.abc import Iterator

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
