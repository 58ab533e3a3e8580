"""Steps that were observed, and checkpoints loaded among them: what may have been done again is in doubt, and no more."""

import pytest

from elastic_events.bus.context import Context
from elastic_events.reading.buckets import Goodput, goodput
from elastic_events.reading.builder import build
from elastic_events.reading.overview import summary
from elastic_events.reading.story import Story
from tests.reading.runs import Run

SEEN = {"path": "/c.pt", "observed": True, "file_id": "1-1"}


def span(run: Run, at: float, who: Context, what: str, step: int | None = None, **facts: object) -> None:
    """Record a checkpoint or a restore, of a tenth of a second."""
    for edge, then in (("started", at), ("ended", at + 0.1)):
        run.tell(then, who, f"{what}.{edge}", step=step, mark_id=round(1000 * at), **facts)


def begun(run: Run, attempt: int = 0, at: float = 0) -> list[Context]:
    """Begin an attempt of two ranks."""
    run.start(at, run.agent(), attempt, range(2), restart=attempt)
    return [run.worker(rank, attempt) for rank in range(2)]


def ended(run: Run, at: float, attempt: int = 0, outcome: str = "succeeded") -> Story:
    """End it, and the job."""
    agent = run.agent()
    for rank in range(2):
        if outcome == "failed":
            run.failed(at, agent, attempt, rank, exit_code=1)
        else:
            run.tell(at, agent, "worker.succeeded", rank=rank, local_rank=rank, attempt=attempt)
    run.tell(at, agent, "attempt.ended", attempt=attempt, outcome=outcome)
    run.records.sort(key=lambda record: record.time_ns)
    (story,) = build(run.records)
    return story


def observe(run: Run, who: Context, at: float, step: int) -> None:
    """Record a step of a second."""
    run.tell(at, who, "step.observed", step=step, took_ns=10**9, data_ns=1)


def seconds(found: Goodput) -> dict[str, float]:
    """The buckets of the steps."""
    return {one.name: round(one.seconds, 1) for one in found.buckets if one.name in ("productive", "lost", "unknown")}


@pytest.mark.parametrize(
    ("loads", "doubted"), [([], 0), ([9], 5), ([9, 14], 10), ([9, 17], 13)], ids=["none", "once", "twice", "of two"]
)
@pytest.mark.parametrize("begins", ["", "/pretrained.pt"])
def test_rollbacks_in_the_process(loads: list[int], doubted: int, begins: str) -> None:
    """Rank 0 saves behind step 4; behind others both load it: from that save to the last load nobody knows, of neither rank."""
    run = Run()
    ranks = begun(run)
    if begins:
        span(run, 0.5, ranks[0], "restore", path=begins, observed=True)
    for step in range(20):
        for who in ranks:
            observe(run, who, 2.5 + 1.5 * step, step)
        if step in (4, 15):
            span(run, 2.6 + 1.5 * step, ranks[0], "checkpoint", step, **SEEN)
        if step in loads:
            span(run, 2.6 + 1.5 * step, ranks[0], "restore", **SEEN)
    story = ended(run, 40)
    assert seconds(goodput(story)) == {"productive": 20 - doubted, "lost": 0, "unknown": doubted}
    assert bool(summary(story).attempts[0].unsure) is bool(loads or begins)


def test_a_rollback_that_the_script_marks_among_observed_steps() -> None:
    """Its numbers are the script's own: all before it is in doubt; a mark before the first step is none."""
    run = Run()
    ranks = begun(run)
    span(run, 0.5, ranks[0], "restore")
    for step in range(20):
        for who in ranks:
            observe(run, who, 2.5 + 1.5 * step, step)
    assert (summary(ended(run, 40)).attempts[0].unsure, goodput(ended(run, 40)).steps) == ("", 20)
    span(run, 2.6 + 1.5 * 9, ranks[0], "restore")
    assert seconds(goodput(ended(run, 40))) == {"productive": 10, "lost": 0, "unknown": 10}


@pytest.mark.parametrize("marks", ["each step", "each epoch"])
def test_steps_that_one_rank_marks_and_of_others_are_observed(marks: str) -> None:
    """As the first one does that alone logs: theirs have its numbers, unless what it marks is something else."""
    run = Run()
    for attempt, (begin, numbers) in enumerate(((0, range(100, 110)), (20, range(105, 120)))):
        ranks = begun(run, attempt, begin)
        for at, number in enumerate(numbers):
            since = begin + 1 + at
            if marks == "each step":
                run.tell(since, ranks[0], "step.started", step=number)
                run.tell(since + 1, ranks[0], "step.ended", step=number)
            observe(run, ranks[1], since + 1.01, at)
        if marks == "each epoch":
            run.tell(begin + 1, ranks[0], "step.started", step=attempt)
            run.tell(begin + 1 + len(numbers), ranks[0], "step.ended", step=attempt)
        story = ended(run, begin + 2 + len(numbers), attempt, "succeeded" if attempt else "failed")
    found = [list(w.process.steps)[:1] for w in story.workers() if w.process is not None and w.process.observed]
    assert found == ([[100], [105]] if marks == "each step" else [[0], [0]])
    if marks == "each step":
        assert (goodput(story).steps, goodput(story).steps_redone) == (20, 5)


def test_a_rank_that_marks_epochs_of_which_an_attempt_made_few() -> None:
    """In a short attempt there may be as many as steps: where it is not so in all, their numbers are not those of the steps."""
    run = Run()
    for attempt, (begin, epochs, steps) in enumerate(((0, 3, 24), (40, 1, 1))):
        ranks = begun(run, attempt, begin)
        if attempt:
            span(run, begin + 0.5, ranks[1], "restore", path="/other.pt", observed=True)
        for epoch in range(epochs):
            run.tell(begin + 1 + 8 * epoch, ranks[0], "step.started", step=epoch + 2 * attempt)
            run.tell(begin + 9 + 8 * epoch, ranks[0], "step.ended", step=epoch + 2 * attempt)
        for at in range(steps):
            observe(run, ranks[1], begin + 2 + at, at)
        story = ended(run, begin + 30, attempt, "succeeded" if attempt else "failed")
    assert "nobody was seen to save" in story.attempts[1].unsure


@pytest.mark.parametrize("marked", [True, False])
def test_a_restore_that_goes_back_by_nothing(*, marked: bool) -> None:
    """What a script restores at the step at which it is, as the weights of an average, takes nothing back; data neither."""
    run = Run()
    ranks = begun(run)
    span(run, 0.5, ranks[0], "checkpoint", None, **SEEN)
    for step in range(20):
        for who in ranks:
            observe(run, who, 2.5 + 1.5 * step, step)
        if step % 5 == 4:
            about = {"step": step} if marked else SEEN
            span(run, 2.6 + 1.5 * step, ranks[0], "restore", **about)  # type: ignore[arg-type]
    story = ended(run, 40)
    assert (summary(story).attempts[0].unsure, goodput(story).steps) == ("", 20)


@pytest.mark.parametrize("when", ["in a thread", "before the first step"])
def test_a_checkpoint_of_which_nobody_knows_what_it_holds(when: str) -> None:
    """A thread writes what it copied some steps before: behind it nothing is sure, and nobody says that it was not seen."""
    run = Run()
    for attempt, begin in enumerate((0, 50)):
        ranks = begun(run, attempt, begin)
        if attempt:
            span(run, begin + 0.5, ranks[0], "restore", **SEEN)
        elif when == "before the first step":
            span(run, 0.5, ranks[0], "checkpoint", None, **SEEN)
        for step in range(10):
            for who in ranks:
                observe(run, who, begin + 2 + step, step)
            if not attempt and step == 5 and when == "in a thread":
                span(run, begin + 2.3 + step, ranks[0], "checkpoint", step, **SEEN)
        story = ended(run, begin + 30, attempt, "succeeded" if attempt else "failed")
    assert "it is not known which steps it holds" in story.attempts[1].unsure
    assert seconds(goodput(story)) == {"productive": 10, "lost": 0, "unknown": 10}


def test_a_rollback_to_what_a_thread_wrote() -> None:
    """Of the steps before none is known to count."""
    run = Run()
    ranks = begun(run)
    for step in range(10):
        for who in ranks:
            observe(run, who, 2 + 2 * step, step)
        if step == 3:
            span(run, 2.3 + 2 * step, ranks[0], "checkpoint", step, path="/d.pt", observed=True)
            span(run, 3.2 + 2 * step, ranks[0], "checkpoint", step, **SEEN)  # beside the next step
        if step == 6:
            span(run, 2.3 + 2 * step, ranks[0], "restore", **SEEN)
    story = ended(run, 30)
    assert seconds(goodput(story)) == {"productive": 3, "lost": 0, "unknown": 7}
    assert "steps before" not in story.attempts[0].unsure


@pytest.mark.parametrize(
    ("saves", "numbers"),
    [({"/c.pt": 4}, [5]), ({"/c.pt": 4, "/d.pt": 4}, [5]), ({"/c.pt": 4, "/d.pt": 7}, None), ({"/c.pt": -1}, None)],
    ids=["one", "two of one step", "two of two", "by a thread"],
)
def test_checkpoints_that_a_later_attempt_loads(saves: dict[str, int], numbers: list[int] | None) -> None:
    """Of several that hold other steps nobody knows with which it goes on, nor of one that a thread wrote in the last step."""
    run = Run()
    for attempt, begin in enumerate((0, 50)):
        ranks = begun(run, attempt, begin)
        for at, path in enumerate(saves if attempt else ()):
            span(run, begin + 0.5 + 0.2 * at, ranks[0], "restore", path=path, observed=True)
        for step in range(9):
            for who in ranks:
                observe(run, who, begin + 2 + 2 * step, step)
            for at, (path, number) in enumerate(saves.items() if not attempt else ()):
                if step == (number if number >= 0 else 8):
                    about = {"path": path, "observed": True, **({"beside": True} if number < 0 else {})}
                    span(run, begin + 2.3 + 2 * step + 0.2 * at, ranks[0], "checkpoint", step, **about)
        story = ended(run, begin + 30, attempt, "succeeded" if attempt else "failed")
    process = story.attempts[1].workers[0].process
    assert process is not None
    assert (None if process.names else [process.steps[0]]) == numbers
    assert bool(story.attempts[1].unsure) is (numbers is None)


@pytest.mark.parametrize("back", [0, 1, 2])
def test_a_rank_that_goes_back_by_its_own_marks_beside_observed_ones(back: int) -> None:
    """In that attempt alone what the others did has not its numbers."""
    run = Run()
    for attempt, (begin, first) in enumerate(((0, 0), (100, 15), (200, 30))):
        ranks = begun(run, attempt, begin)
        numbers = (
            [*range(first, first + 17), *range(first + 14, first + 20)] if attempt == back else range(first, first + 20)
        )
        for at, number in enumerate(numbers):
            run.tell(begin + 1 + at, ranks[0], "step.started", step=number)
            run.tell(begin + 2 + at, ranks[0], "step.ended", step=number)
            observe(run, ranks[1], begin + 2.01 + at, at)
        story = ended(run, begin + 60, attempt, "failed" if attempt < 2 else "succeeded")
    firsts = [w.process.steps[0] for w in story.workers() if w.process is not None and w.process.observed]
    assert [first for at, first in enumerate(firsts) if at != back] == [
        n for at, n in enumerate((0, 15, 30)) if at != back
    ]
