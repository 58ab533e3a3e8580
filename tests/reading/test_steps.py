"""Training loops as they are: numbers that come again, marks that overlap and nest, rollbacks, clocks that are set."""

from typing import Any

import msgspec
import pytest

import elastic_events
from elastic_events.bus.context import Context
from elastic_events.reading.buckets import Goodput, goodput
from elastic_events.reading.builder import build
from elastic_events.reading.overview import summary
from elastic_events.reading.rows import timeline
from elastic_events.reading.source import read_stories
from elastic_events.reading.stragglers import slow
from elastic_events.sinks.sqlite import SqliteSink
from elastic_events.testing import capture
from tests.reading.runs import START, Run


def answer(run: Run) -> Goodput:
    """The goodput of a run that is one story."""
    (story,) = build(run.records)
    return goodput(story)


def parts(found: Goodput) -> dict[str, float]:
    """Seconds by bucket, without those that are empty."""
    return {bucket.name: round(bucket.seconds, 6) for bucket in found.buckets if bucket.seconds}


def job(ranks: int = 1, end: float | None = None, outcome: str = "succeeded") -> Run:
    """A run of one attempt from 0 on; with `end` it ends then."""
    run = Run()
    agent = run.agent()
    run.tell(0, agent, "job.started")
    run.start(0, agent, 0, range(ranks))
    if end is not None:
        ended(run, end, outcome)
    return run


def ended(run: Run, at: float, outcome: str = "succeeded") -> None:
    """Record the end of the job in its first attempt."""
    run.tell(at, run.agent(), "attempt.ended", attempt=0, outcome=outcome)
    run.tell(at, run.agent(), f"job.{outcome}")


def restart(run: Run, at: float, end: float, attempt: int = 1) -> None:
    """Record that rank 0 was killed, a restart two seconds later, and the end of the job."""
    agent = run.agent()
    run.failed(at, agent, attempt - 1, 0, signal="SIGKILL")
    run.tell(at, agent, "attempt.ended", attempt=attempt - 1, outcome="failed")
    run.tell(at + 2, agent, "rendezvous.completed", round=attempt, world_size=1, rank=0, node="a", duration_ms=1000)
    run.start(at + 2, agent, attempt, range(1), restart=attempt)
    run.tell(end, agent, "attempt.ended", attempt=attempt, outcome="succeeded")
    run.tell(end, agent, "job.succeeded")


def mark(run: Run, who: Context, what: str, start: float, end: float | None, **facts: Any) -> None:
    """Record a mark; without an end it stays open."""
    run.tell(start, who, f"{what}.started", **facts)
    if end is not None:
        run.tell(end, who, f"{what}.ended", **facts)


def in_order(run: Run) -> Run:
    """Put the records into the order of their time, as the processes recorded them."""
    run.records.sort(key=lambda record: record.time_ns)
    return run


# --- numbers that come again ---


def test_epochs_that_count_anew() -> None:
    """Four epochs of 20 steps are 80 steps of their own time, not 20 that last for all epochs."""
    run = job(2)
    for rank in range(2):
        at = 1.0
        for _ in range(4):
            at = run.steps(run.worker(rank), range(20), at, 0.9) + 2
    ended(run, 81)
    found = answer(run)
    assert parts(found) == {"startup": 1, "productive": 72, "idle": 8}
    assert (found.steps, found.steps_redone, found.step_s) == (80, 0, 0.9)
    (story,) = build(run.records)
    rates = slow(story)
    assert [(one.late_s, one.longest_s, one.straggler) for one in rates.ranks] == [(0, 0.9, "")] * 2


def test_an_evaluation_from_zero_after_a_pause() -> None:
    """What lies between training and an evaluation that counts from 0 again is not productive."""
    run = job()
    at = run.steps(run.worker(0), range(10), 0, 1)
    run.steps(run.worker(0), range(5), at + 70, 1)
    ended(run, 85)
    found = answer(run)
    assert (parts(found), found.steps) == ({"productive": 15, "idle": 70}, 15)


def test_a_restart_in_an_epoch() -> None:
    """Where numbers begin anew each epoch, a restart does again what was done since the last step of its first number."""
    run = job()
    at = 0.0
    for _ in range(3):
        at = run.steps(run.worker(0), range(20), at, 1)
    run.steps(run.worker(0), range(13), at, 1, ended=False)
    restart(run, 73, 100)
    run.steps(run.worker(0, 1), range(20), 76, 1)
    found = answer(in_order(run))
    assert (found.steps, found.steps_redone, found.steps_cut) == (80, 12, 1)
    assert parts(found) == {
        "productive": 80,
        "lost": 13,
        "detection": 1,
        "rendezvous": 1,
        "startup": 1,
        "idle": 4,
    }


def test_an_epoch_that_may_have_been_finished() -> None:
    """A restart that begins an epoch, after one that was whole, is not said to have lost it: the records do not tell."""
    run = job()
    at = 0.0
    for _ in range(3):
        at = run.steps(run.worker(0), range(20), at, 1)
    restart(run, 62, 100)
    run.steps(run.worker(0, 1), range(20), 65, 1)
    found = answer(in_order(run))
    assert (found.steps, found.steps_redone) == (80, 0)


@pytest.mark.parametrize(("resumes", "redone"), [((2, 0), 20), ((3, 0), 0), ((2, 15), 5), ((1, 0), 40)])
def test_epochs_by_name_are_exact(resumes: tuple[int, int], redone: int) -> None:
    """With `epoch` in the marks, what a restart does again is known, whatever the numbers."""
    run = job()
    for number in range(60):
        mark(run, run.worker(0), "step", number, number + 1, step=number % 20, epoch=number // 20)
    restart(run, 62, 100)
    mark(run, run.worker(0, 1), "step", 65, 66, step=resumes[1], epoch=resumes[0])
    found = answer(in_order(run))
    assert (found.steps_redone, found.steps) == (redone, 61 - redone)


def test_a_checkpoint_tells_what_an_epoch_lost() -> None:
    """Where both are marked, a restart does again what was done since the checkpoint that it restored."""
    run = job()
    worker, later = run.worker(0), run.worker(0, 1)
    at = 0.0
    for epoch in range(3):
        at = run.steps(worker, range(10), at, 1)
        if epoch < 2:
            mark(run, worker, "checkpoint", at, at + 1, step=epoch)
            at += 1
    restart(run, 33, 60)
    mark(run, later, "restore", 35.5, 36, step=1)
    run.steps(later, range(10), 36, 1)
    assert answer(in_order(run)).steps_redone == 10


def test_a_rollback_within_the_process() -> None:
    """Behind a restore, training goes on with an earlier step: what was done from there on is lost."""
    run = job(2)
    for rank in range(2):
        at = run.steps(run.worker(rank), range(20), 0, 1)
        mark(run, run.worker(rank), "restore", at, at + 2, step=14)
        run.steps(run.worker(rank), range(15, 30), at + 2, 1)
    ended(run, 37)
    found = answer(in_order(run))
    assert (found.steps, found.steps_redone) == (30, 5)
    assert parts(found) == {"productive": 30, "lost": 5, "idle": 2}
    (story,) = build(run.records)
    boxes = [(box.start_s, box.end_s, box.state) for box in timeline(story).rows[1].boxes if box.state != "restore"]
    assert boxes[1:] == [(0, 15, "training"), (15, 22, "lost"), (22, 37, "training")]


def test_a_restore_for_an_evaluation() -> None:
    """The best checkpoint is loaded to be evaluated, from step 0 on: no training is lost."""
    run = job()
    at = run.steps(run.worker(0), range(20), 0, 1)
    mark(run, run.worker(0), "restore", at, at + 1, step=14)
    run.steps(run.worker(0), range(5), at + 1, 1)
    ended(run, 26)
    found = answer(in_order(run))
    assert (parts(found), found.steps, found.steps_redone) == ({"productive": 25, "idle": 1}, 25, 0)


# --- marks that overlap and nest ---


@pytest.mark.parametrize("ids", [True, False])
def test_steps_that_overlap(ids: bool) -> None:
    """Step n + 1 begins before n ends: each end belongs to its own beginning, by the id or by the number."""
    run = job()
    for n in range(10):
        mark(run, run.worker(0), "step", n, n + 1.5, step=n, **({"mark_id": n} if ids else {}))
    ended(run, 20)
    found = answer(in_order(run))
    assert (parts(found), found.steps, found.step_s) == ({"productive": 10.5, "idle": 9.5}, 10, 1.5)


@pytest.mark.parametrize("ids", [True, False])
def test_steps_that_nest(ids: bool) -> None:
    """Micro-steps within a step, with numbers of their own, leave the step what it is."""
    run = job()
    for n in range(5):
        begin = 4 * n
        for micro in range(2):
            mark(
                run,
                run.worker(0),
                "step",
                begin + micro + 0.25,
                begin + micro + 0.75,
                step=micro,
                **({"mark_id": 10 * n + micro} if ids else {}),
            )
        mark(run, run.worker(0), "step", begin, begin + 3, step=n, **({"mark_id": 10 * n + 5} if ids else {}))
    ended(run, 20)
    found = answer(in_order(run))
    assert (parts(found), found.steps) == ({"productive": 15, "idle": 5}, 15)


def test_checkpoints_that_nest_and_overlap() -> None:
    """A checkpoint within a checkpoint ends by itself; one beside steps that ends during a blocking one does not close it."""
    run = job()
    worker = run.worker(0)
    run.steps(worker, range(2), 0, 1)
    mark(run, worker, "checkpoint", 2, 6, step=1)
    mark(run, worker, "checkpoint", 3, 4, step=1)
    run.steps(worker, range(2, 4), 6, 1)
    mark(run, worker, "checkpoint", 7.5, 9, step=2)  # begins beside step 3, ends within the next one
    mark(run, worker, "checkpoint", 8, 16, step=3)
    run.steps(worker, range(4, 6), 16, 1)
    ended(run, 18)
    assert parts(answer(in_order(run))) == {"productive": 6, "checkpoint": 12}


def test_a_lost_end_is_not_cut_off() -> None:
    """A step whose end was not recorded, with steps behind it, is unknown: neither lost, nor the end of training."""
    run = job()
    worker = run.worker(0)
    mark(run, worker, "step", 0, None, step=0)
    run.steps(worker, range(1, 9), 1, 1)
    mark(run, worker, "checkpoint", 9, 10, step=8)
    ended(run, 10, "failed")
    found = answer(in_order(run))
    assert (parts(found), found.steps_cut) == ({"idle": 1, "productive": 8, "checkpoint": 1}, 0)


# --- exceptions ---


def test_an_exception_that_the_script_caught() -> None:
    """A step that an exception left, with others behind it, is no end of training; the failure comes where it came."""
    run = job()
    worker = run.worker(0)
    at = run.steps(worker, range(5), 0, 1)
    run.tell(at, worker, "step.started", step=5)
    run.tell(at + 1, worker, "step.ended", step=5, error="OutOfMemoryError")
    at = run.steps(worker, range(6, 64), at + 1, 1, ended=False)
    run.failed(64.5, run.agent(), 0, 0, signal="SIGKILL")
    ended(run, 64.5, "failed")
    found = answer(in_order(run))
    assert parts(found) == {"productive": 62, "idle": 1, "lost": 1, "detection": 0.5}
    assert (found.steps, found.steps_cut) == (62, 1)
    (story,) = build(run.records)
    assert [(b.start_s, b.end_s) for b in timeline(story).rows[1].boxes if b.state == "lost"] == [(63, 64.5)]


def test_an_exception_that_ended_the_training() -> None:
    """The step that an exception left last is cut off, and ended when it did."""
    run = job()
    run.steps(run.worker(0), range(5), 0, 1)
    run.tell(5, run.worker(0), "step.started", step=5)
    run.tell(5.5, run.worker(0), "step.ended", step=5, error="ValueError")
    run.failed(8, run.agent(), 0, 0, exit_code=1)
    ended(run, 8, "failed")
    found = answer(in_order(run))
    assert (parts(found), found.steps_cut) == ({"productive": 5, "lost": 0.5, "detection": 2.5}, 1)


# --- clocks ---


def set_clock(run: Run, at: float, by: float) -> None:
    """Let the host's wall clock jump by so many seconds at a time; the monotonic clock does not."""
    for place, record in enumerate(run.records):
        if record.monotonic_ns >= START + round(at * 1e9):
            run.records[place] = msgspec.structs.replace(record, time_ns=record.time_ns + round(by * 1e9))


@pytest.mark.parametrize("by", [-60, 3600])
@pytest.mark.parametrize("stored", [True, False])
def test_a_wall_clock_that_is_set(by: float, stored: bool, tmp_path: Any) -> None:
    """Durations are the monotonic clock's: in the process that saw the jump, and where another of the host began after it."""
    run = job()
    run.steps(run.worker(0), range(40), 0, 1, ended=False)
    restart(run, 40, 100)
    run.steps(run.worker(0, 1), range(39, 90), 45, 1)
    in_order(run)
    expected = parts(answer(run))
    set_clock(run, 20.5, by)
    if stored:
        sink = SqliteSink(tmp_path / "run.db")
        sink.open_now()
        sink.write_now(run.records)
        sink.close_now()
        (story,) = read_stories([tmp_path / "run.db"])
    else:
        (story,) = build(run.records)
    found = goodput(story)
    assert (found.wall_s, parts(found)) == (100, expected)
    assert slow(story).median_s == 1


# --- numbers of any type ---


@pytest.mark.parametrize("kind", [str, float])
def test_numbers_in_other_types(kind: Any) -> None:
    """A whole number is one as a text, or as a float."""
    run = job()
    for n in range(10):
        mark(run, run.worker(0), "step", n, n + 1, step=kind(n))
    restart(run, 12, 40)
    for n in range(8, 20):
        mark(run, run.worker(0, 1), "step", 10 + n, 11 + n, step=kind(n))
    found = answer(in_order(run))
    assert (found.steps, found.steps_redone) == (20, 2)
    (story,) = build(run.records)
    assert [row.last_step for row in summary(story).attempts] == [9, 19]


@pytest.mark.parametrize("name", [0.5, "warm-up", None, 2**70, ["a"]])
def test_steps_that_have_no_number(name: Any) -> None:
    """A step without a whole number is a step; nobody is told a number for it, nor that it was done again."""
    run = job()
    for n in range(5):
        mark(run, run.worker(0), "step", n, n + 1, step=name)
    restart(run, 12, 40)
    mark(run, run.worker(0, 1), "step", 20, 21, step=name)
    found = answer(in_order(run))
    assert (found.steps, found.steps_redone, found.step_s) == (6, 0, 1)
    (story,) = build(run.records)
    assert [(row.first_step, row.last_step) for row in summary(story).attempts] == [(None, None)] * 2
    assert slow(story).ranks[0].longest_step is None


# --- a job that was queued again ---


def test_a_job_that_was_queued_again() -> None:
    """The time between the end of a job and its next start, of one run id, is nobody's detection of a failure."""
    run = Run()
    for begin, pid, outcome in ((0, 10, "failed"), (1000, 11, "succeeded")):
        agent, worker = run.agent("a", pid), run.worker(0, pid=100 + pid)
        run.tell(begin, agent, "job.started")
        run.tell(begin, agent, "attempt.started", attempt=0, world_size=1, round=0)
        run.tell(begin, agent, "worker.started", rank=0, local_rank=0, pid=100 + pid, attempt=0)
        first = 10 if begin else 0
        run.steps(worker, range(first, first + 10), begin + 2, 1)
        if not begin:
            run.failed(begin + 13, agent, 0, 0, exit_code=1)
        run.tell(begin + 13, agent, "attempt.ended", attempt=0, outcome=outcome)
        run.tell(begin + 13, agent, f"job.{outcome}")
    found = answer(run)
    assert parts(found) == {"productive": 20, "startup": 4, "detection": 1, "requeue": 987, "idle": 1}
    assert found.attempts[0].buckets["requeue"] == 987


# --- one figure in two places ---


def test_one_median_step() -> None:
    """`goodput` and `slow` tell one median step: that of the ranks, also where they take turns."""
    run = job(3, 40)
    for rank, each in enumerate((0.5, 0.75, 2.0)):
        run.steps(run.worker(rank), range(10), rank, each)
    (story,) = build(in_order(run).records)
    assert goodput(story).step_s == slow(story).median_s == 0.75


# --- the marks themselves ---


def test_marks_have_an_id() -> None:
    """Both events of a mark carry the same id, and each mark one of its own; the user's metadata goes into both."""
    with capture() as records:
        for _ in range(2):
            with elastic_events.step(3, epoch=1), elastic_events.checkpoint("last"):
                pass
    facts = [record.event.metadata for record in records]
    ids = [about["mark_id"] for about in facts]
    assert [ids[0], ids[1]] == [ids[3], ids[2]]
    assert len(set(ids)) == 4
    assert all(about["epoch"] == 1 for about in facts if about["step"] == 3)


def test_one_mark_used_again() -> None:
    """A mark object that is entered again is a new mark."""
    with capture() as records:
        again = elastic_events.step(1)
        for _ in range(2):
            with again:
                pass
    assert len({record.event.metadata["mark_id"] for record in records}) == 2


def test_two_buses_of_one_program_are_one_rank() -> None:
    """A program without a rank that closed its bus and opened another, as in a notebook, is one rank that perhaps began again."""
    run = Run()
    for bus, begin in enumerate((0.0, 10.0)):
        run.steps(Context("run", f"64-2f-{bus}", "a", 100), range(5), begin, 1.0)
    (story,) = build(run.records)
    told = summary(story)
    assert (told.ranks, len(told.attempts)) == (1, 2)
    assert goodput(story).steps_redone is None
