"""Steps that were observed, and checkpoints loaded among them: what may have been done again is in doubt, and no more."""

import pytest
from msgspec.structs import replace

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
    ("loads", "doubted"), [([], 0), ([9], 5), ([9, 14], 10), ([9, 17], 7)], ids=["none", "once", "twice", "of two"]
)
@pytest.mark.parametrize("begins", ["", "/pretrained.pt"])
def test_rollbacks_in_the_process(loads: list[int], doubted: int, begins: str) -> None:
    """Rank 0 saves behind steps 4 and 15, and loads that behind others: from each save to its load nobody knows."""
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


@pytest.mark.parametrize("back", [8, 30])
def test_a_rollback_to_a_state_that_nobody_was_seen_to_save(back: int) -> None:
    """It was kept in memory, or saved by another attempt: as many steps as the optimizer says are in doubt, of both ranks."""
    run = Run()
    ranks = begun(run)
    for step in range(20):
        for who in ranks:
            observe(run, who, 2.5 + 1.5 * step, step)
        if step == 14:
            span(run, 2.6 + 1.5 * step, ranks[0], "restore", call="load_state_dict", observed=True, back=back)
    story = ended(run, 40)
    doubted = min(back, 15)
    assert seconds(goodput(story)) == {"productive": 20 - doubted, "lost": 0, "unknown": doubted}
    assert f"a state of its optimizer, saved at most {back} steps before" in summary(story).attempts[0].unsure


def mark(run: Run, who: Context, at: float, step: object) -> None:
    """Record a marked step of a second."""
    run.tell(at, who, "step.started", step=step)
    run.tell(at + 0.95, who, "step.ended", step=step)


@pytest.mark.parametrize("each", [1, 2])
def test_what_one_rank_marks_is_in_doubt_where_another_one_was_taken_back(each: int) -> None:
    """However many steps of the optimizer a mark is of: rank 0 marks 16, and behind the rollback anew from 6 on."""
    run = Run()
    ranks = begun(run)
    for at, step in enumerate([*range(16), *range(6, 20)]):
        begin = 2.0 + at + 0.3 * (at >= 16)
        if at == 16:
            span(run, begin - 0.3, ranks[1], "restore", call="load_state_dict", observed=True, back=10 * each)
        mark(run, ranks[0], begin, step)
        for part in range(each):
            took = {"took_ns": int(9.4e8 / each), "data_ns": 1}
            run.tell(begin + 0.95 * (part + 1) / each, ranks[1], "step.observed", step=each * at + part, **took)
    found = seconds(goodput(ended(run, 40)))
    assert found == {"productive": 19, "lost": 0, "unknown": 9.5}


@pytest.mark.parametrize(("back", "doubted"), [(17, 17), (0, 0)])
@pytest.mark.parametrize("begins", [0, -5])
def test_marks_that_begin_anew_are_in_doubt_where_an_optimizer_was_taken_back(
    back: int, doubted: int, begins: int
) -> None:
    """To the beginning, or before it; where none was, as with a new one in each fold, they are another loop's."""
    run = Run()
    ranks = begun(run)
    for at, step in enumerate([*range(17), *range(begins, 3)]):
        if at == 17:
            span(run, 2.0 + at, ranks[0], "restore", call="load_state_dict", observed=True, back=back or None)
        for who in ranks:
            mark(run, who, 2.0 + at + 0.3 * (at >= 17), step)
    found = seconds(goodput(ended(run, 40)))
    done = 20 - begins - doubted
    assert found == pytest.approx({"productive": 0.95 * done, "lost": 0, "unknown": 0.95 * doubted}, abs=0.1)


#: How rank 0 marks: each step by its number, by a name, or each tenth step.
HOW = {
    "numbers": lambda step: step,
    "names": lambda step: f"s{step}",
    "few": lambda step: step if step % 10 == 9 else None,
}


def told(
    how: str, plan: list[tuple[int, int]], *, each: int = 1, loads: str = "01", saver: int = 1, alone: int = -1
) -> Story:
    """Return a job whose rank 0 marks its steps, in attempts of these; of that `alone` no other record is left."""
    run, at, save = Run(), 1.0, ""
    run.tell(0, run.agent(), "job.started")
    for attempt, (low, high) in enumerate(plan):
        last = attempt == len(plan) - 1
        ranks = begun(run, attempt, at)
        at += 1
        for rank in map(int, loads if attempt else ""):
            span(run, at, ranks[rank], "restore", **{**SEEN, "file_id": save})
        at += 0.5
        for count, step in enumerate(range(low, high)):
            name = HOW[how](step)
            if name is not None:
                mark(run, ranks[0], at, name)
            for part in range(each * (attempt != alone)):
                done, took = at + 0.96 * (part + 1) / each, {"took_ns": int(9e8 / each), "data_ns": 1}
                for who in ranks if how == "few" else ranks[1:]:
                    run.tell(done, who, "step.observed", step=each * count + part, **took)
            at += 1
            if step + 1 == (plan[attempt + 1][0] if not last else 0):
                save = f"f{step}"
                seen = {**SEEN, "file_id": save}
                span(run, at, ranks[saver], "checkpoint", each * (count + 1) - 1, **seen)
                at += 0.2
        at += 0.5
        if not last:
            for rank in range(2):
                run.failed(at, run.agent(), attempt, rank, exit_code=1, first=rank == 0)
            run.tell(at, run.agent(), "attempt.ended", attempt=attempt, outcome="failed")
        at += 2
    return ended(run, at, len(plan) - 1)


@pytest.mark.parametrize("each", [1, 2, 3])
@pytest.mark.parametrize("alone", [0, 1])
def test_where_one_attempt_holds_marks_alone_all_steps_are_those_marked(each: int, alone: int) -> None:
    """Else an optimizer's steps of one attempt would be counted beside marks of several of another."""
    found = goodput(told("numbers", [(0, 17), (10, 30)], each=each, alone=alone))
    assert (found.steps, found.steps_redone) == (30, 7)


def test_where_names_tell_no_beginning_what_was_observed_does() -> None:
    """A rank that was observed loads what was seen to be saved behind step 9."""
    found = goodput(told("names", [(0, 17), (10, 30)]))
    assert (found.steps, found.steps_redone) == (30, 7)


def test_what_a_marking_rank_alone_loads_the_others_are_given() -> None:
    """It hands it to them: where they begin is known by what it loaded."""
    found = goodput(told("names", [(0, 17), (10, 30)], loads="0"))
    assert (found.steps, found.steps_redone) == (30, 7)


def test_what_a_marking_rank_saved_holds_nobody_knows_how_many_steps() -> None:
    """Rank 0 saves, and marks each tenth step: an older save at the path, of an attempt without a mark, is not that."""
    story = told("few", [(0, 6), (6, 25), (24, 31)], saver=0)
    found = goodput(story)
    assert (found.steps, found.steps_redone, found.ettr) == (None, None, None)
    assert story.attempts[2].unsure


@pytest.mark.parametrize(("second", "doubted"), [(10, 20), (1, 10)])
def test_rollbacks_to_states_that_nobody_was_seen_to_save(second: int, doubted: int) -> None:
    """A second one may go further back than the first, by what its optimizer counts; between two small ones all is sure."""
    run = Run()
    ranks = begun(run)
    for step in range(30):
        for who in ranks:
            observe(run, who, 2.5 + 1.5 * step, step)
        if step in (19, 24):
            back = 10 if step == 19 and second == 10 else second if step == 24 else 8
            span(run, 2.6 + 1.5 * step, ranks[0], "restore", call="load_state_dict", observed=True, back=back)
    unknown = seconds(goodput(ended(run, 60)))["unknown"]
    assert unknown == doubted if second == 10 else 8 < unknown < 20


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


@pytest.mark.parametrize("marks", ["epoch", "lap", "micro", "few"])
def test_the_steps_of_a_job_are_counted_once(marks: str) -> None:
    """As rank 0 marks them, or as those of rank 1 were observed: 24 in all, of which 4 were done again."""
    run = Run()
    for attempt, (begin, numbers) in enumerate(((0, range(14)), (40, range(10, 24)))):
        ranks = begun(run, attempt, begin)
        if attempt:
            span(run, begin + 0.5, ranks[1], "restore", **SEEN)
        for at, number in enumerate(numbers):
            since = begin + 1 + 1.5 * at
            called = {"epoch": {"epoch": number // 10, "step": number % 10}, "lap": {"step": number % 10}}
            for part in range(2 if marks == "micro" else 1):
                about = called.get(marks, {"step": 2 * number + part if marks == "micro" else number})
                if marks != "few" or not at % 5:
                    run.tell(since + part / 2, ranks[0], "step.started", **about)
                    run.tell(since + part / 2 + 0.49, ranks[0], "step.ended", **about)
            observe(run, ranks[1], since + 1, at)
            if number == 9:
                span(run, since + 1.1, ranks[1], "checkpoint", at, **SEEN)
        story = ended(run, begin + 30, attempt, "succeeded" if attempt else "failed")
    found = goodput(story)
    assert (found.steps, found.steps_redone) == ((48, 8) if marks == "micro" else (24, 4))


def test_a_job_that_shrinks_to_the_rank_that_counts_within_each_epoch() -> None:
    """Nobody was observed in its last attempt: what it did again follows from the marks alone, and is no epoch more."""
    run = Run()
    for attempt, (begin, numbers) in enumerate(((0, range(17)), (40, range(10, 30)))):
        ranks = begun(run, attempt, begin)
        for at, number in enumerate(numbers):
            since = begin + 1 + 1.1 * at
            run.tell(since, ranks[0], "step.started", step=number % 10)
            run.tell(since + 1, ranks[0], "step.ended", step=number % 10)
            if not attempt:
                observe(run, ranks[1], since + 1, at)
        story = ended(run, begin + 30, attempt, "succeeded" if attempt else "failed")
    assert seconds(goodput(story))["lost"] == pytest.approx(7, abs=0.8)


def test_a_rollback_of_a_rank_that_marks_few_of_the_steps_that_are_observed() -> None:
    """Its marks tell how far it went back; how many steps there were, those that are more."""
    run = Run()
    ranks = begun(run)
    for at, number in enumerate((*range(12), *range(5, 20))):
        since = 1 + 1.5 * at
        if at == 12:
            span(run, since - 0.3, ranks[0], "restore", 4)
        if not number % 5:
            run.tell(since, ranks[0], "step.started", step=number)
            run.tell(since + 1, ranks[0], "step.ended", step=number)
        observe(run, ranks[1], since + 1, at)
    found = goodput(ended(run, 50))
    assert (found.steps, found.steps_redone) == (20, 7)


@pytest.mark.parametrize("named", [False, True])
def test_what_one_rank_marks_is_in_doubt_with_what_was_observed_of_another(*, named: bool) -> None:
    """Numbers that fall may be those of an epoch, and names tell nothing: it went back with the others, by as much."""
    run = Run()
    ranks = begun(run)
    for at in range(20):
        since = 1 + 1.5 * at
        run.tell(since, ranks[0], "step.started", step="x" if named else at % 5)
        run.tell(since + 1, ranks[0], "step.ended", step="x" if named else at % 5)
        observe(run, ranks[1], since + 1.01, at)
        if at == 7:
            span(run, since + 1.1, ranks[1], "checkpoint", at, **SEEN)
        if at == 11:
            span(run, since + 1.1, ranks[1], "restore", **SEEN)
    found = seconds(goodput(ended(run, 40)))
    assert found["unknown"] == pytest.approx(4, abs=0.2)


def test_a_state_that_takes_a_job_back_to_before_its_attempt() -> None:
    """Steps of the attempt before may be lost, too."""
    run = Run()
    for attempt, (begin, steps) in enumerate(((0, 25), (60, 20))):
        ranks = begun(run, attempt, begin)
        if attempt:
            span(run, begin + 0.5, ranks[0], "restore", **SEEN)
        for at in range(steps):
            for who in ranks:
                observe(run, who, begin + 2 + 1.5 * at, at)
            if (attempt, at) == (0, 19):
                span(run, begin + 2.1 + 1.5 * at, ranks[0], "checkpoint", at, **SEEN)
            if (attempt, at) == (1, 9):
                span(run, begin + 2.1 + 1.5 * at, ranks[0], "restore", call="load_state_dict", observed=True, back=15)
        story = ended(run, begin + 55, attempt, "succeeded" if attempt else "failed")
    assert seconds(goodput(story))["productive"] <= 15
    assert seconds(goodput(story))["unknown"] >= 20


def test_a_job_that_goes_on_with_its_own_checkpoint_on_another_host() -> None:
    """Without ranks, too: it loads the very file that was saved, so that it is the same training, though it comes no further."""
    run = Run()
    for life, (host, steps) in enumerate((("a", 20), ("b", 3))):
        who = replace(run.worker(None, pid=60 + life, host=host), restart=None, process=f"{60 + life:x}-1-{host}")
        if life:
            span(run, 99, who, "restore", **SEEN)
        for at in range(steps):
            observe(run, who, 100 * life + 1.5 * at + 1, at)
            if (life, at) == (0, 14):
                span(run, 100 * life + 1.5 * at + 1.1, who, "checkpoint", at, **SEEN)
    run.records.sort(key=lambda record: record.time_ns)
    (story,) = build(run.records)
    assert (goodput(story).steps, goodput(story).steps_redone) == (18, 5)


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


@pytest.mark.parametrize(("data", "path"), [(False, "/c.pt"), (False, "/d.pt"), (True, "/c.pt")])
def test_a_run_that_goes_on_with_what_another_saved(path: str, *, data: bool) -> None:
    """It saves where it loaded from, as most do: that the file was not its own then it says all the same."""
    run = Run()
    ranks = begun(run)
    if data:
        span(run, 0.2, ranks[0], "checkpoint", path="/c.pt", observed=True, file_id="1-1")
    for who in ranks:
        span(run, 0.5, who, "restore", path="/c.pt", observed=True, file_id="1-1")
    for step in range(9):
        for who in ranks:
            observe(run, who, 2.5 + 1.5 * step, step)
        if step == 4:
            span(run, 2.6 + 1.5 * step, ranks[0], "checkpoint", step, path=path, observed=True, file_id="2-2")
    assert ("not seen to save" in summary(ended(run, 40)).attempts[0].unsure) is not data


def test_a_checkpoint_of_an_attempt_whose_numbers_nobody_knows() -> None:
    """It is one of those that an attempt may go on with: the other one does not decide."""
    run = Run()
    for attempt, begin in enumerate((0, 50, 100)):
        ranks = begun(run, attempt, begin)
        for at, path in enumerate(("/best.pt", "/last.pt") if attempt else ()):
            span(run, begin + 0.5 + 0.2 * at, ranks[0], "restore", path=path, observed=True)
        for step in range(9):
            for who in ranks:
                observe(run, who, begin + 2 + 2 * step, step)
            if (attempt, step) == (0, 3):
                span(run, begin + 2.3 + 2 * step, ranks[0], "checkpoint", step, path="/best.pt", observed=True)
            if step == 7:
                span(run, begin + 2.3 + 2 * step, ranks[0], "checkpoint", step, path="/last.pt", observed=True)
        story = ended(run, begin + 30, attempt, "succeeded" if attempt == 2 else "failed")
    rows = summary(story).attempts
    assert [(row.first_step, bool(row.unsure)) for row in rows] == [(0, False), (None, True), (None, True)]
    assert seconds(goodput(story))["lost"] == 0


@pytest.mark.parametrize("beside", [True, False])
def test_the_time_of_a_checkpoint_whose_thread_is_waited_for(*, beside: bool) -> None:
    """No step ran beside it: it held up its rank, whichever thread wrote it."""
    run = Run()
    ranks = begun(run)
    for step in range(9):
        for who in ranks:
            observe(run, who, 3 + step + 6 * (step > 4), step)
    for edge, at in (("started", 7.1), ("ended", 12.1)):
        for who in ranks:
            run.tell(at, who, f"checkpoint.{edge}", step=4, mark_id=1, path="/c.pt", observed=True, beside=beside)
    found = {one.name: round(one.seconds, 1) for one in goodput(ended(run, 20)).buckets}
    assert found["checkpoint"] == 5


def test_a_rank_that_counts_within_each_epoch_beside_observed_ones() -> None:
    """What it did again the others did at the same time, whatever their numbers: not the first step that had its number."""
    run = Run()
    for attempt, (begin, first, steps) in enumerate(((0, 0, 15), (100, 12, 9))):
        ranks = begun(run, attempt, begin)
        if attempt:
            span(run, begin + 0.5, ranks[1], "restore", path="/other.pt", observed=True)
        for at in range(steps):
            run.tell(begin + 1.01 + at, ranks[0], "step.started", step=(first + at) % 6)
            run.tell(begin + 2 + at, ranks[0], "step.ended", step=(first + at) % 6)
            observe(run, ranks[1], begin + 2.02 + at, at)
        story = ended(run, begin + 60, attempt, "succeeded" if attempt else "failed")
    assert seconds(goodput(story))["lost"] <= 3.1


@pytest.mark.parametrize("data", [False, True], ids=["", "loads the data of each epoch"])
def test_a_rank_that_counts_within_each_epoch_of_which_an_attempt_made_none(*, data: bool) -> None:
    """Its numbers only rise there, and are those of no rank else."""
    run = Run()
    for attempt, (begin, first, steps) in enumerate(((0, 0, 25), (100, 20, 6), (200, 20, 20))):
        ranks = begun(run, attempt, begin)
        if attempt:
            span(run, begin + 0.5, ranks[1], "restore", **SEEN)
        for at in range(steps):
            if data and not (first + at) % 10:
                span(run, begin + 0.8 + 1.5 * at, ranks[0], "restore", path="/epoch.pt", observed=True, file_id="7-7")
            run.tell(begin + 1 + 1.5 * at, ranks[0], "step.started", step=(first + at) % 10)
            run.tell(begin + 2 + 1.5 * at, ranks[0], "step.ended", step=(first + at) % 10)
            observe(run, ranks[1], begin + 2.01 + 1.5 * at, at)
            if (attempt, at) == (0, 19):
                span(run, begin + 2.1 + 1.5 * at, ranks[1], "checkpoint", at, **SEEN)
        story = ended(run, begin + 60, attempt, "succeeded" if attempt == 2 else "failed")
    assert [w.process.steps[0] for w in story.workers() if w.process is not None and w.process.observed] == [0, 20, 20]


def test_what_is_saved_behind_a_rollback_in_the_process_has_numbers_that_may_be_too_high() -> None:
    """An attempt that goes on with it says so; one that goes on with what was saved before that does not."""
    for back_to in ("/early.pt", "/late.pt"):
        run = Run()
        for attempt, begin in enumerate((0, 100, 200)):
            who = begun(run, attempt, begin)[0]
            if attempt:
                span(run, begin + 0.5, who, "restore", path=back_to if attempt == 1 else "/last.pt", observed=True)
            for step in range(20):
                observe(run, who, begin + 2 + 2 * step, step)
                if attempt == 0 and step in (3, 15):
                    path = "/early.pt" if step == 3 else "/late.pt"
                    span(run, begin + 2.3 + 2 * step, who, "checkpoint", step, path=path, observed=True)
                if (attempt, step) == (0, 9):
                    span(run, begin + 2.3 + 2 * step, who, "restore", path="/early.pt", observed=True)
                if (attempt, step) == (1, 15):
                    span(run, begin + 2.3 + 2 * step, who, "checkpoint", step, path="/last.pt", observed=True)
            story = ended(run, begin + 60, attempt, "succeeded" if attempt == 2 else "failed")
        rows = summary(story).attempts
        first = 4 if back_to == "/early.pt" else 16
        assert [row.first_step for row in rows] == [0, first, first + 16]
        assert ["may have lower numbers" in row.unsure for row in rows] == [False, *[back_to == "/late.pt"] * 2]


@pytest.mark.parametrize("again", [False, True])
def test_what_is_saved_between_two_rollbacks_in_the_process_has_numbers_that_may_be_too_high(*, again: bool) -> None:
    """So has what an attempt behind such a checkpoint saves, before it goes back itself."""
    run = Run()
    for attempt, begin in enumerate((0, 100, 200)):
        who = begun(run, attempt, begin)[0]
        if attempt:
            span(run, begin + 0.5, who, "restore", path=f"/{attempt}.pt", observed=True)
        for step in range(20):
            observe(run, who, begin + 2 + 2 * step, step)
            if step in (3, 12):
                path = f"/{attempt + 1}.pt" if step == (12 if attempt == 0 else 3) else "/other.pt"
                span(run, begin + 2.3 + 2 * step, who, "checkpoint", step, path=path, observed=True)
            if (attempt, step) in ((0, 9), (0, 15), (1, 9)) if again else (attempt, step) in ((0, 9), (1, 9)):
                path = "/2.pt" if attempt else "/1.pt" if step == 15 else "/other.pt"
                span(run, begin + 2.6 + 2 * step, who, "restore", path=path, observed=True)
        story = ended(run, begin + 60, attempt, "succeeded" if attempt == 2 else "failed")
    assert ["may have lower numbers" in row.unsure for row in summary(story).attempts] == [False, True, True]


@pytest.mark.parametrize(("before", "ahead"), [(0.2, 0), (-0.2, 0), (0, 2.5), (0, -2.5)])
def test_a_rank_that_marks_its_steps_beside_one_whose_clock_or_beginnings_are_others(
    before: float, ahead: float
) -> None:
    """As many were lost of both: the same numbers are the same steps."""
    run = Run()
    for attempt, (begin, first) in enumerate(((0, 0), (100, 15))):
        marks, seen = begun(run, attempt, begin)
        if attempt:
            span(run, begin + 3, seen, "restore", **SEEN)
        for at in range(20):
            run.tell(begin + 5 + 2 * at, marks, "step.started", step=first + at)
            run.tell(begin + 6 + 2 * at, marks, "step.ended", step=first + at)
            took = round(1e9 * (1 + before))
            run.tell(begin + 6.01 + 2 * at + ahead, seen, "step.observed", step=at, took_ns=took, data_ns=1)
            if (attempt, at) == (0, 14):
                span(run, begin + 6.1 + 2 * at + ahead, seen, "checkpoint", at, **SEEN)
        story = ended(run, begin + 60, attempt, "succeeded" if attempt else "failed")
    assert (goodput(story).steps, goodput(story).steps_redone) == (35, 5)


def test_data_that_another_host_has_saved_whose_clock_is_ahead() -> None:
    """It is the same file: this run was seen to save it."""
    run = Run()
    ranks = begun(run)
    span(run, 1, ranks[0], "checkpoint", path="/data.pt", observed=True, file_id="7-7")
    span(run, 1.05, ranks[1], "restore", path="/data.pt", observed=True, file_id="7-7")
    for step in range(9):
        for who in ranks:
            observe(run, who, 3 + step, step)
    assert summary(ended(run, 20)).attempts[0].unsure == ""


def test_a_rank_that_marks_its_steps_and_goes_back_to_its_first_one() -> None:
    """Behind a restore it is a rollback: it does not count within each epoch, and the others have its numbers elsewhere."""
    run = Run()
    plans = (range(25), [*range(20, 26), *range(20, 30)], range(20, 40))
    for attempt, plan in enumerate(plans):
        begin = 100 * attempt
        ranks = begun(run, attempt, begin)
        for at, step in enumerate(plan):
            if attempt and step == 20:
                span(run, begin + 1.5 + 2 * at, ranks[0], "restore", 19)
            run.tell(begin + 2 + 2 * at, ranks[0], "step.started", step=step)
            run.tell(begin + 3 + 2 * at, ranks[0], "step.ended", step=step)
            observe(run, ranks[1], begin + 3.01 + 2 * at, at)
            if (attempt, step) == (0, 19):
                span(run, begin + 3.2 + 2 * at, ranks[0], "checkpoint", 19)
        story = ended(run, begin + 60, attempt, "succeeded" if attempt == 2 else "failed")
    assert (goodput(story).steps, summary(story).attempts[2].first_step) == (40, 20)
