"""The marks that callbacks make of what a framework calls."""

from elastic_events.observe.marks import Marks
from elastic_events.reading.builder import build
from elastic_events.testing import capture


class Trainer:
    """Loads a checkpoint of eight steps."""

    def load(self, path: str) -> dict[str, int]:
        """Return what it holds."""
        return {"global_step": int(path)}


def test_a_restore_whose_step_is_known_when_it_is_loaded() -> None:
    """Its end says it, and the story has one restore, of that step; of a checkpoint without a step, it has none."""
    with capture() as found:
        trainer = Trainer()
        Marks().around(trainer, "load", "restore", lambda *_: None, "global_step")
        assert trainer.load("8") == {"global_step": 8}
        trainer.load("0")
    assert [event.metadata["step"] for event in found.events] == [None, 7, None, None]
    (story,) = build(list(found))
    (process,) = story.processes
    assert [(span.what, span.step, bool(span.end_ns)) for span in process.spans] == [
        ("restore", 7, True),
        ("restore", None, True),
    ]


def test_a_call_in_an_exception_handler_did_not_fail() -> None:
    """What a framework does while it handles an exception is marked as what it is; what raises itself has failed."""
    with capture() as found:
        trainer = Trainer()
        Marks().around(trainer, "load", "restore", lambda *_: None, "global_step")
        try:
            trainer.load("none")
        except ValueError:
            trainer.load("8")
    assert [event.metadata.get("error") for event in found.events] == [None, "ValueError", None, None]
