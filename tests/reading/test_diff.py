"""Two runs side by side."""

import io

from rich.console import Console

from elastic_events.reading.builder import build
from elastic_events.reading.compare import diff
from elastic_events.reading.diff_terminal import diff_terminal
from elastic_events.reading.story import Story
from tests.reading.runs import Run, two_attempts


def straight() -> Story:
    """A run of one attempt and six steps of 1.25 s, without a failure, in 12 s."""
    run = Run("straight")
    agent = run.agent()
    run.tell(0, agent, "job.started")
    run.tell(1, agent, "rendezvous.completed", round=0, world_size=1, rank=0, node="a", duration_ms=1000)
    run.start(1, agent, 0, range(2))
    for rank in range(2):
        run.steps(run.worker(rank), range(6), 4, 1.25)
    run.tell(12, agent, "attempt.ended", attempt=0, outcome="succeeded")
    run.tell(12, agent, "job.succeeded")
    return build(run.records)[0]


def test_what_grew() -> None:
    """Every figure of both runs, the change, and the phase that cost most more."""
    (other,) = build(two_attempts().records)
    found = diff(straight(), other)
    lines = {line.name: (line.a, line.b, line.change) for line in found.lines}
    assert (found.a, found.b) == ("straight", "run")
    assert lines["wall time"] == (12, 20, 8)
    assert lines["goodput (ETTR)"] == (0.625, 0.375, -0.25)
    assert lines["restarts"] == (0, 1, 1)
    assert lines["median restart to first step"] == (None, 5, None)
    assert lines["startup"] == (3, 6, 3)
    assert lines["lost"] == (0, 2.5, 2.5)
    assert found.grew_most == "startup"
    assert diff(other, straight()).grew_most == ""


def test_the_screen() -> None:
    """The phase that grew most is marked; what a run does not tell is said so."""
    (other,) = build(two_attempts().records)
    console = Console(file=io.StringIO(), width=100)
    console.print(diff_terminal(diff(straight(), other)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "startup  ◀ grew most" in text
    assert "not told" in text
    assert "-25.0%" in text
    assert "+8.0 s (+67%)" in text
