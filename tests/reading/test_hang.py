"""Where ranks stopped: who waits in which step, who never came to it, and when nothing of the kind may be said."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.simulate import Job, simulate
from elastic_events.reading.builder import build
from elastic_events.reading.hang import verdict
from elastic_events.reading.slow_terminal import slow_terminal
from elastic_events.reading.source import read_stories
from elastic_events.reading.stragglers import Slow, slow
from tests.reading.runs import Run


def answer(run: Run) -> Slow:
    """What is slow in a run that is one story."""
    (story,) = build(run.records)
    return slow(story)


def trained(ranks: int, steps: int = 20, each: float = 0.5) -> Run:
    """A run whose ranks did some steps together, from 1 on."""
    run = Run()
    run.start(0, run.agent(), 0, range(ranks))
    for rank in range(ranks):
        run.steps(run.worker(rank), range(steps), 1, each)
    return run


def died(run: Run, at: float, rank: int, **facts: Any) -> None:
    """Record a collector's word of a dead worker: it comes in the worker's own context."""
    run.tell(at, run.worker(rank), "worker.died", host="a", pid=100 + rank, rank=rank, **facts)


def failed(run: Run, at: float, ranks: int, first: int, **cause: Any) -> None:
    """Record that rank `first` failed and the others were stopped."""
    agent = run.agent()
    for rank in range(ranks):
        if rank == first:
            run.failed(at, agent, 0, rank, **(cause or {"exit_code": 1}))
        else:
            run.failed(at, agent, 0, rank, signal="SIGTERM", first=False, victim=True)
    run.tell(at, agent, "attempt.ended", attempt=0, outcome="failed")
    run.tell(at, agent, "job.failed", reason="workers failed")


def test_a_rank_that_never_began_the_step() -> None:
    """The others wait in a step until one runs into a timeout: they are named, with the step, since when, and who is missing."""
    run = trained(4)
    for rank in (0, 2, 3):
        run.tell(11.5, run.worker(rank), "step.started", step=20)
    run.tell(41.5, run.worker(0), "step.ended", step=20, error="RuntimeError")
    failed(run, 42, 4, first=0)
    died(run, 42.5, 1, signal="SIGTERM")
    found = answer(run)
    (hang,) = found.hangs
    assert (hang.waiting, hang.place, hang.since_s, hang.lasted_s) == ([0, 2, 3], "in step 20", 11.5, 30)
    assert [(lag.ranks, lag.place) for lag in hang.behind] == [([1], "never began it")]
    assert "Ranks 0, 2-3 waited in step 20 from " in verdict(hang)
    assert "(+11.5 s) on, for 30.0 s; rank 1 never began it." in verdict(hang)
    console = Console(file=io.StringIO(), width=200)
    console.print(slow_terminal(found))
    assert verdict(hang) in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_word_of_a_collector_is_no_sign_of_life() -> None:
    """Of two ranks one hangs, and the other's step ends by a timeout: the one that hung went quiet, not the one that waited."""
    run = trained(2)
    run.tell(11, run.worker(0), "step.started", step=20)
    run.tell(31, run.worker(0), "step.ended", step=20, error="RuntimeError")
    failed(run, 31.2, 2, first=0)
    for rank in range(2):
        died(run, 31.5, rank)
    assert [(quiet.rank, quiet.before_others_s) for quiet in answer(run).quiet] == [(1, 20)]


@pytest.mark.parametrize("hung", range(3))
def test_where_one_rank_marks_what_the_others_do_not_the_others_tell(hung: int) -> None:
    """Its open mark is no step of theirs, of which the ends alone are seen: that it waits in it nobody can say."""
    run = Run()
    run.start(0, run.agent(), 0, range(3))
    run.steps(run.worker(0), range(21), 1, 0.5)
    run.tell(11.5, run.worker(0), "step.started", step=21)
    for rank in (1, 2):
        for step in range(21 + (rank != hung) * (hung > 0)):
            run.tell(1.5 + step / 2, run.worker(rank), "step.observed", step=step, took_ns=500_000_000)
    failed(run, 60, 3, first=2, signal="SIGABRT")
    said = [verdict(hang) for hang in answer(run).hangs]
    assert not any("ank 0" in one for one in said)
    assert all(f"rank {hung}" in one.lower() for one in said)


def test_what_is_observed_of_a_step_is_its_end() -> None:
    """Where steps are observed, nobody knows whether who did not end a step had begun it; who raised had given up to wait."""
    run = Run()
    run.start(0, run.agent(), 0, range(2))
    for step in range(20):
        for rank in range(2):
            run.tell(1.5 + step / 2, run.worker(rank), "step.observed", step=step, took_ns=500_000_000)
    run.tell(11.5, run.worker(0), "step.observed", step=20, took_ns=500_000_000)
    failed(run, 60, 2, first=1, signal="SIGKILL")
    (hang,) = answer(run).hangs
    assert (hang.waiting, hang.place, hang.lasted_s) == ([0], "behind step 20", 48.5)
    assert [(lag.ranks, lag.place) for lag in hang.behind] == [([1], "never ended it")]
    run.tell(11.6, run.worker(0), "worker.exception", type="RuntimeError")
    assert answer(run).hangs == []  # that it had raised its agent saw much later


def test_who_said_why_it_ends_is_not_quiet() -> None:
    """A process that raised may take long to end: it recorded no more, and nobody wonders why."""
    run = trained(3)
    for rank in (0, 2):
        run.steps(run.worker(rank), range(20, 40), 11, 0.5)
    failed(run, 21, 3, first=1)
    assert [quiet.rank for quiet in answer(run).quiet] == [1]
    run.tell(11.1, run.worker(1), "worker.exception", type="KeyboardInterrupt")
    assert answer(run).quiet == []


def test_who_exits_is_not_quiet() -> None:
    """A process that exits, and takes long for it, is not quiet; one that was kept from it and went on may be."""
    run = trained(3)
    for rank in (0, 2):
        run.steps(run.worker(rank), range(20, 40), 11, 0.5)
    failed(run, 21, 3, first=1)
    run.tell(5, run.worker(1), "worker.exit", call="sys.exit", code=1)
    assert [quiet.rank for quiet in answer(run).quiet] == [1]
    run.tell(11.1, run.worker(1), "worker.exit", call="sys.exit", code=1)
    assert answer(run).quiet == []


@pytest.mark.parametrize(("broke", "quiet"), [(13, []), (40, [1, 2])])
@pytest.mark.parametrize("marked", [True, False])
def test_what_peers_break_of_is_no_sign_that_they_went_on(broke: float, quiet: list[int], *, marked: bool) -> None:
    """Whose end broke its peers a moment later was not quiet until then; whom they waited for until a timeout was."""
    run = trained(4)
    for rank in (0, 3):
        if marked:
            run.tell(11, run.worker(rank), "step.started", step=20)
            run.tell(broke, run.worker(rank), "step.ended", step=20, error="RuntimeError")
        run.tell(broke, run.worker(rank), "worker.exception", type="RuntimeError")
    failed(run, broke + 0.2, 4, first=1)
    assert sorted(quiet.rank or 0 for quiet in answer(run).quiet) == quiet


def test_a_rank_that_hangs_within_the_step() -> None:
    """Where all are in the same step, those that ran into a timeout had waited; who did not leave it is what they waited for."""
    run = trained(3)
    for rank in range(3):
        run.tell(11, run.worker(rank), "step.started", step=20)
    for rank in (0, 1):
        run.tell(31, run.worker(rank), "step.ended", step=20, error="RuntimeError")
    failed(run, 31.2, 3, first=0)
    (hang,) = answer(run).hangs
    assert (hang.waiting, [(lag.ranks, lag.place) for lag in hang.behind]) == ([0, 1], [([2], "never left it")])


def test_a_rank_that_hangs_in_the_step_before() -> None:
    """A rank may hang in an earlier step than the others wait in, and the others may wait behind a step that they left."""
    run = trained(3)
    for rank in range(3):
        run.tell(11, run.worker(rank), "step.started", step=20)
    for rank in (0, 2):
        run.tell(11.5, run.worker(rank), "step.ended", step=20)
    failed(run, 60, 3, first=0, signal="SIGABRT")
    (hang,) = answer(run).hangs
    assert (hang.waiting, hang.place) == ([0, 2], "behind step 20")
    assert [(lag.ranks, lag.place) for lag in hang.behind] == [([1], "never left it")]
    for rank in (0, 2):
        run.tell(12, run.worker(rank), "step.started", step=21)
    (hang,) = answer(run).hangs
    assert (hang.waiting, hang.place) == ([0, 2], "in step 21")
    assert [(lag.ranks, lag.place) for lag in hang.behind] == [([1], "never left step 20")]


def test_a_rank_that_hangs_in_a_checkpoint() -> None:
    """Who never came back from a checkpoint is named; the others wait behind the step."""
    run = trained(3)
    run.tell(11, run.worker(0), "checkpoint.started", step=19)
    failed(run, 90, 3, first=1)
    (hang,) = answer(run).hangs
    assert (hang.waiting, hang.place, hang.since_s) == ([1, 2], "behind step 19", 11)
    assert [(lag.ranks, lag.place) for lag in hang.behind] == [([0], "never left its checkpoint of step 19")]


@pytest.mark.parametrize(("before_s", "hung"), [(None, False), (12, False), (2, True)])
def test_a_checkpoint_takes_its_own_time(before_s: float | None, hung: bool) -> None:
    """One that lasts for many steps hangs not: it may be as long as twice the longest before it, the first one a minute."""
    run = trained(3)
    begin = 11.0
    if before_s is not None:
        run.tell(begin, run.worker(0), "checkpoint.started", step=19)
        begin += before_s
        run.tell(begin, run.worker(0), "checkpoint.ended", step=19)
    for rank in range(3):
        begin = run.steps(run.worker(rank), range(20, 22), 11 + (before_s or 0), 0.5)
    run.tell(begin, run.worker(0), "checkpoint.started", step=21)
    failed(run, begin + 24, 3, first=1)
    # Where it lasted 12 s, the others waited for so long without a step: that is the job's longest pause.
    assert bool(answer(run).hangs) is hung


def test_a_checkpoint_that_ran_into_a_timeout_is_no_measure() -> None:
    """Where one rank hangs in a checkpoint, and another's breaks of a timeout, that one took no usual time."""
    run = trained(2)
    for rank in range(2):
        run.tell(11.5, run.worker(rank), "checkpoint.started", step=19)
    run.tell(611.5, run.worker(0), "checkpoint.ended", step=19, error="RuntimeError")
    failed(run, 612, 2, first=0)
    (hang,) = answer(run).hangs
    assert [(lag.ranks, lag.place) for lag in hang.behind] == [([1], "never left its checkpoint of step 19")]


def test_all_in_one_step() -> None:
    """Where all ranks are in the same step and none gave up first, that is what is said."""
    run = trained(3)
    for rank in range(3):
        run.tell(11, run.worker(rank), "step.started", step=20)
    failed(run, 90, 3, first=1, signal="SIGABRT")
    (hang,) = answer(run).hangs
    assert (hang.waiting, hang.behind) == ([0, 1, 2], [])
    assert "no rank left it." in verdict(hang)


def test_a_job_that_hangs_still() -> None:
    """In a job that has not ended the ranks wait, as long as anybody records that they do."""
    run = trained(3)
    for rank in (0, 2):
        run.tell(11, run.worker(rank), "step.started", step=20)
    run.metric(100, run.worker(0), "gpu_watts", 90)
    (hang,) = answer(run).hangs
    assert (hang.over, hang.lasted_s) == (False, 89)
    assert "Ranks 0, 2 wait in step 20 since " in verdict(hang)


def test_a_death_is_no_hang() -> None:
    """A rank that is killed, and is missed by the others for as long as it takes to notice, did not hang."""
    run = trained(3)
    for rank in (0, 2):
        run.tell(11, run.worker(rank), "step.started", step=20)
    failed(run, 16, 3, first=1, signal="SIGKILL")
    assert answer(run).hangs == []


@pytest.mark.parametrize("each", [0.01, 0.5, 10.0])
def test_the_pauses_of_the_run_are_the_measure(each: float) -> None:
    """A stop for as long as the run's own pauses, or its first step, is none; one for several times as long is one."""
    for stop, hung in ((8 * each, False), (max(30 * each, 2), True)):
        run = Run()
        run.start(0, run.agent(), 0, range(2))
        for rank in range(2):
            at = run.steps(run.worker(rank), range(1), 1, 40 * each)
            at = run.steps(run.worker(rank), range(1, 10), at, each)
            at = run.steps(run.worker(rank), range(10, 20), at + 4 * each, each)
        run.tell(at, run.worker(0), "step.started", step=20)
        failed(run, at + stop, 2, first=0)
        assert bool(answer(run).hangs) == hung


def test_the_end_of_training_is_no_hang() -> None:
    """Ranks that have all ended their last step, and do something else that they do not mark, do not hang."""
    run = trained(3)
    failed(run, 500, 3, first=0)
    assert answer(run).hangs == []


def test_thousands_of_ranks() -> None:
    """One of two thousand is found as one of three is, also where it has its clock ahead."""
    ranks = 2000
    run = trained(ranks, steps=4)
    for rank in range(ranks):
        if rank != 777:
            run.tell(3.2, run.worker(rank), "step.started", step=4)
    run.tell(60, run.worker(0), "step.ended", step=4, error="RuntimeError")
    failed(run, 61, ranks, first=0)
    (hang,) = answer(run).hangs
    assert [(lag.ranks, lag.place) for lag in hang.behind] == [([777], "never began it")]
    assert "Ranks 0-776, 778-1999 waited in step 4 " in verdict(hang)


def test_a_clock_that_is_ahead_does_not_lead() -> None:
    """Who came furthest is told by the steps, not by whose clock shows the latest time."""
    run = trained(2)
    for record in list(run.records):
        if record.context.rank == 1:
            run.records.remove(record)
    run.steps(run.worker(1), range(20), 1.9, 0.5)
    run.tell(11.1, run.worker(0), "step.started", step=20)
    failed(run, 90, 2, first=0)
    (hang,) = answer(run).hangs
    assert (hang.waiting, [lag.ranks for lag in hang.behind]) == ([0], [[1]])


def test_names_and_epochs() -> None:
    """Steps that come again in each epoch, or have names, are told apart by their order."""
    run = Run()
    run.start(0, run.agent(), 0, range(3))
    for rank in range(3):
        at = 1.0
        for _ in range(3):
            at = run.steps(run.worker(rank), range(5), at, 0.5)
        if rank != 2:
            run.tell(at, run.worker(rank), "step.started", step=0)
    failed(run, 90, 3, first=0)
    (hang,) = answer(run).hangs
    assert (hang.waiting, hang.place, hang.since_s) == ([0, 1], "in step 0", 8.5)
    assert [(lag.ranks, lag.place) for lag in hang.behind] == [([2], "never began it")]


def test_the_planted_rank_of_the_simulation(tmp_path: Path) -> None:
    """The simulation's quiet rank is listed at its default number of steps, and nobody else."""
    job = Job(nodes=6, restarts=2, records=12_000)
    truth = simulate(tmp_path / "run.db", job)
    (story,) = read_stories([tmp_path / "run.db"])
    found = slow(story)
    assert ([one.rank for one in found.quiet], found.hangs) == ([truth.quiet], [])


@pytest.mark.parametrize("came", [False, True])
def test_a_checkpoint_in_which_all_ranks_meet(came: bool) -> None:
    """In torch's distributed checkpoint ranks wait for those that never came to it; who has left it waits for the others."""
    run = trained(3)
    for rank in (0, 2):
        run.tell(11 + rank / 10, run.worker(rank), "checkpoint.started", step=19, observed=True, call="save")
    if came:
        run.tell(11.1, run.worker(1), "checkpoint.started", step=19, observed=True, call="save")
        run.tell(11.2, run.worker(1), "checkpoint.ended", step=19, observed=True, call="save")
    failed(run, 90, 3, first=1, signal="SIGKILL")
    (hang,) = answer(run).hangs
    told = (hang.waiting, hang.place, [(lag.ranks, lag.place) for lag in hang.behind])
    if came:
        assert told == ([1], "behind step 19", [([0, 2], "never left its checkpoint of step 19")])
    else:
        assert told == ([0, 2], "in the checkpoint of step 19", [([1], "never began it")])


def test_a_checkpoint_beside_the_steps_is_no_measure() -> None:
    """One that took long and held up nobody says nothing of how long one may last for which all wait."""
    run = trained(4)
    run.tell(12, run.worker(0), "checkpoint.started", step=19, mark_id=1)
    for rank in range(4):
        last = run.steps(run.worker(rank), range(20, 1000), 12.01, 0.5)
    run.tell(412, run.worker(0), "checkpoint.ended", step=19, mark_id=1)
    run.tell(last, run.worker(0), "checkpoint.started", step=999, mark_id=2)
    for rank in (1, 2, 3):
        run.tell(last + 0.05, run.worker(rank), "step.started", step=1000)
    failed(run, last + 700, 4, 1, signal="SIGABRT")
    (hang,) = answer(run).hangs
    assert "rank 0 never left its checkpoint of step 999" in verdict(hang)


def test_the_last_of_the_checkpoints_beside_the_steps() -> None:
    """Behind it no step comes, as the others did not know of it: it takes as long as those."""
    run = trained(4)
    last = 12.0
    for at, steps in enumerate((range(20, 320), range(320, 620), range(0))):
        run.tell(last, run.worker(0), "checkpoint.started", step=steps.start - 1, mark_id=at)
        began = last
        for rank in range(4):
            last = run.steps(run.worker(rank), steps, began, 0.5)
        if steps:
            run.tell(began + 120, run.worker(0), "checkpoint.ended", step=steps.start - 1, mark_id=at)
    run.metric(last + 100, run.agent(), "gpu", 1)
    assert not answer(run).hangs


def test_nobody_waits_any_more_in_an_attempt_that_others_followed() -> None:
    """Also where nobody said what it ended as, without an agent."""
    run = Run()
    for restart in range(2):
        for rank in range(2):
            run.steps(run.worker(rank, restart), range(5), 1 + 100 * restart, 0.5, ended=bool(restart or rank))
    run.metric(30, run.worker(0), "loss", 1)
    (hang,) = answer(run).hangs
    assert hang.over
    assert "waited behind step 4" in verdict(hang)
