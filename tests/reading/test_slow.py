"""Step times by rank, stragglers and silence, against runs worked out by hand."""

import io
import json
import random

import msgspec
import pytest
from rich.console import Console

from elastic_events.reading.buckets import goodput
from elastic_events.reading.builder import build
from elastic_events.reading.goodput_terminal import goodput_terminal
from elastic_events.reading.slow_terminal import slow_terminal
from elastic_events.reading.stragglers import Slow, slow
from tests.reading.runs import START, Run, two_attempts


def answer(run: Run) -> Slow:
    """What is slow in a run that is one story."""
    (story,) = build(run.records)
    return slow(story)


def shown(found: Slow) -> str:
    """It as a terminal of 80 columns shows it."""
    console = Console(file=io.StringIO(), width=80)
    console.print(slow_terminal(found))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def words(found: Slow) -> str:
    """It with every line break and gap as one space."""
    return " ".join(shown(found).split())


def ranks(times: list[float], *, late: dict[int, float] | None = None, steps: int = 100) -> Run:
    """A run in which each rank has its own step time; ranks in `late` begin each step later."""
    run = Run()
    run.start(0, run.agent(), 0, range(len(times)))
    for rank, each in enumerate(times):
        worker = run.worker(rank)
        for step in range(steps):
            begin = 1 + 2 * step + (late or {}).get(rank, 0)
            run.tell(begin, worker, "step.started", step=step)
            run.tell(begin + each, worker, "step.ended", step=step)
    return run


def test_times_by_rank() -> None:
    """Median, p99 and longest of a rank are those of its finished steps, over all attempts."""
    run = Run()
    run.start(0, run.agent(), 0, range(1))
    worker = run.worker(0)
    at = 1.0
    for step in range(200):
        run.tell(at, worker, "step.started", step=step)
        at += 7 if step == 150 else 3 if step in (20, 30) else 1
        run.tell(at, worker, "step.ended", step=step)
    run.tell(at, worker, "step.started", step=200)  # never ends
    (found,) = answer(run).ranks
    assert (found.rank, found.steps, found.node) == (0, 200, "a")
    assert (found.median_s, found.p99_s, found.longest_s, found.longest_step) == (1, 3, 7, 150)


def test_a_slow_rank() -> None:
    """A rank whose steps take longer than all others' is a straggler and comes first; ordinary noise is none."""
    found = answer(ranks([1.0, 1.01, 0.99, 1.3, 1.02, 1.0, 0.98, 1.0]))
    assert [(one.rank, one.straggler) for one in found.ranks[:2]] == [(3, "slow"), (4, "")]
    assert found.ranks[0].ratio == 1.3
    assert "1 straggler" in shown(found)


def test_a_late_rank() -> None:
    """Where ranks wait for each other within a step, the one that begins late is the one that holds them up."""
    found = answer(ranks([1.0] * 6, late={4: 0.4}))
    assert [(one.rank, one.straggler, one.late_s) for one in found.ranks if one.straggler] == [(4, "late", 0.4)]


def alone() -> Run:
    """A run of three ranks that do not wait for each other: each begins later, and does more steps, than the one before."""
    run = Run()
    run.start(0, run.agent(), 0, range(3))
    for rank, steps in enumerate((10, 25, 40)):
        run.steps(run.worker(rank), range(steps), 1 + 2 * rank, 0.2)
    return run


def test_who_begins_late_holds_up_nobody_who_does_not_wait() -> None:
    """Where ranks go on to the next step before others begin this one, none is called late, by whatever it began later."""
    assert {one.rank: one.straggler for one in answer(alone()).ranks} == {0: "", 1: "", 2: ""}


@pytest.mark.parametrize("apart", [0.04, 0.28, 0.9])
def test_ranks_that_began_apart_and_never_meet(apart: float) -> None:
    """Ranks that do their steps each for itself stay as far apart as they began: nothing waits for the later ones."""
    run = Run()
    run.start(0, run.agent(), 0, range(4))
    for rank, begin in enumerate((0, 0, 0.001, apart)):
        run.steps(run.worker(rank), range(30), 1 + begin, 1.0)
    assert {one.straggler for one in answer(run).ranks} == {""}


@pytest.mark.parametrize("pause", [0, 5])
@pytest.mark.parametrize("meet", [False, True])
def test_who_rests_as_long_whenever_another_ends_waits_for_nobody(meet: bool, pause: float) -> None:
    """Ranks that rest between steps, each at its own pace, wait for none; where they rest until the last has ended, they do."""
    run = Run()
    run.start(0, run.agent(), 0, range(4))
    chance = random.Random(1)
    begins = [1.0, 1.05, 1.1, 1.5]
    for step in range(200):
        ends = [begin + chance.gauss(0.5, 0.02) for begin in begins]
        for rank in range(4):
            run.tell(begins[rank], run.worker(rank), "step.started", step=step)
            run.tell(ends[rank], run.worker(rank), "step.ended", step=step)
        begins = [(max(ends) if meet else end) + chance.gauss(0.3, 0.005) for end in ends]
        begins = [begin + pause * (step % 20 == 19) for begin in begins]  # an evaluation, say
        begins[3] += chance.gauss(0.5, 0.02) if meet else 0
    assert [one.rank for one in answer(run).ranks if one.straggler] == ([3] if meet else [])


@pytest.mark.parametrize("hosts", ["aaaa", "abcd"])
@pytest.mark.parametrize(("since", "count"), [(0, 4), (40, 4), (40, 2)])
def test_who_does_more_at_the_end_of_each_step(since: int, count: int, hosts: str) -> None:
    """Ranks that meet in the middle of a step wait there for one that ended the step before late, as each of its steps."""
    run = Run()
    for host in sorted(set(hosts)):
        own = [rank for rank in range(count) if hosts[rank] == host]
        run.start(0, run.agent(host), 0, range(min(own, default=0), max(own, default=-1) + 1), round=0)
    begins = [1.0] * count
    for step in range(60):
        met = max(begins) + 0.7
        for rank in range(count):
            more = 0.5 + step * 7 % 5 / 50 if rank == 0 and step >= since else 0
            ended = met + 0.3 + (step + rank) * 3 % 7 / 1000 + more
            run.tell(begins[rank], run.worker(rank, host=hosts[rank]), "step.started", step=step)
            run.tell(ended, run.worker(rank, host=hosts[rank]), "step.ended", step=step)
            begins[rank] = ended + 0.001
    found = {one.rank: (one.straggler, one.since_step) for one in answer(run).ranks}
    assert found == {**dict.fromkeys(range(count), ("", None)), 0: ("late", since + 1)}


def test_who_does_as_much_more_at_the_end_of_each_step() -> None:
    """Ranks that meet in the middle of a step wait there, not in what they rest behind it, which is as long as ever."""
    chance = random.Random(1)
    run = Run()
    run.start(0, run.agent(), 0, range(4))
    times = [1.0] * 4
    for step in range(80):
        begins = [at + chance.gauss(0.15, 0.004) for at in times]
        met = max(begin + chance.gauss(0.35, 0.01) for begin in begins)
        times = [met + chance.gauss(0.15, 0.004) + (chance.gauss(0.3, 0.01) if rank == 0 else 0) for rank in range(4)]
        for rank in range(4):
            run.tell(begins[rank], run.worker(rank), "step.started", step=step)
            run.tell(times[rank], run.worker(rank), "step.ended", step=step)
    assert [(one.rank, one.straggler) for one in answer(run).ranks if one.straggler] == [(0, "late")]


def test_steps_of_which_each_was_finished_by_one() -> None:
    """Ranks of which no two finished the same step are compared by when they began them, and no step is named."""
    run = Run()
    run.start(0, run.agent(), 0, range(4))
    for rank in range(4):
        for step in range(4):
            begin = 1 + 2 * step + (0.5 if rank == 3 else 0)
            run.tell(begin, run.worker(rank), "step.started", step=step)
            failed = {} if step == rank else {"error": "ValueError"}
            run.tell(begin + 1, run.worker(rank), "step.ended", step=step, **failed)
    assert {one.since_step for one in answer(run).ranks} == {None}


def test_who_was_done_is_not_quiet() -> None:
    """A rank that did fewer steps than others that do not wait for it, and ended with 0, is not called quiet."""
    run = alone()
    assert [quiet.rank for quiet in answer(run).quiet] == [0]
    for rank in range(3):
        run.tell(13.1, run.agent(), "worker.succeeded", attempt=0, rank=rank)
    assert answer(run).quiet == []


def shaped(ranks: int, held: dict[int, list[int]], factor: float, steps: int = 40) -> Run:
    """A run whose ranks begin each step together; those in `held` take `factor` times as long in the steps given."""
    run = Run()
    run.start(0, run.agent(), 0, range(ranks))
    for step in range(steps):
        for rank in range(ranks):
            worker, begin = run.worker(rank), 1 + 10 * step
            run.tell(begin, worker, "step.started", step=step)
            each = factor if step in held.get(rank, ()) else 1.0 + rank / 1000
            run.tell(begin + each, worker, "step.ended", step=step)
    return run


def test_a_rank_that_became_slow() -> None:
    """A rank that is slow in the last part of its steps is a straggler, and the step from which on is told."""
    found = answer(shaped(8, {3: list(range(22, 40))}, 4.6))
    (one,) = (one for one in found.ranks if one.straggler)
    assert (one.rank, one.straggler, one.since_step, one.held_up) == (3, "slow", 22, 18 / 40)
    assert "Rank 3 was much slower than the quickest in 45% of its steps, from step 22 on." in words(found)


def test_a_rank_that_is_slow_at_times() -> None:
    """A rank that is slow in two of five steps is a straggler; one that was slow once is none."""
    found = answer(shaped(8, {3: [step for step in range(40) if step % 5 < 2], 5: [7]}, 3.0))
    assert [(one.rank, one.straggler, one.since_step) for one in found.ranks if one.straggler] == [(3, "slow", None)]
    assert "Rank 3 was much slower than the quickest in 40% of its steps." in words(found)


def test_several_slow_ranks() -> None:
    """Half of all ranks at twice the time are stragglers, and so is one of two."""
    every = list(range(40))
    found = answer(shaped(8, dict.fromkeys((1, 2, 5, 7), every), 2.0))
    assert {one.rank for one in found.ranks if one.straggler == "slow"} == {1, 2, 5, 7}
    assert [(one.rank, one.straggler) for one in answer(shaped(2, {1: every}, 4.6)).ranks] == [(1, "slow"), (0, "")]


def test_who_waits_is_not_slow() -> None:
    """A rank whose steps are long since it waits in them for others that begin late is no straggler: these are."""
    run = Run()
    run.start(0, run.agent(), 0, range(3))
    for step in range(20):
        for rank, late in enumerate((0.5, 0.5, 0.0)):
            mark = 2 * step + 1
            run.tell(mark + late, run.worker(rank), "step.started", step=step)
            run.tell(mark + 1.5, run.worker(rank), "step.ended", step=step)
    assert {one.rank: one.straggler for one in answer(run).ranks} == {0: "late", 1: "late", 2: ""}


def test_a_process_without_a_rank() -> None:
    """The steps of a script that nobody gave a rank are counted; its rank is unknown."""
    run = Run()
    run.steps(run.worker(None), range(20), 1, 1)
    found = answer(run)
    assert [(one.rank, one.steps, one.median_s) for one in found.ranks] == [(None, 20, 1)]
    assert "?" in shown(found)


def test_equal_ranks() -> None:
    """Among ranks that are alike nobody stands out, also where the deviation is nothing at all."""
    assert [one.straggler for one in answer(ranks([1.0] * 6)).ranks] == [""] * 6
    assert [one.straggler for one in answer(ranks([1.0] * 5 + [1.001])).ranks] == [""] * 6
    assert [one.straggler for one in answer(ranks([1.0, 1.001])).ranks] == [""] * 2


def test_a_rank_that_went_quiet() -> None:
    """A rank that stopped recording long before the others is named, with when, and after which step."""
    run = ranks([1.0] * 5)
    quiet = run.worker(2).process
    run.records = [
        record
        for record in run.records
        if record.context.process != quiet or record.time_ns < run.records[0].time_ns + 50e9
    ]
    found = answer(run)
    (silence,) = found.quiet
    assert (silence.rank, silence.node, silence.attempt, silence.last_step) == (2, "a", 0, 23)
    assert silence.since_s == 49
    assert silence.before_others_s == 151
    told = "Rank 2 on a went quiet at +49.0 s in attempt 0, after step 23, 2m 31s before the others"
    assert f"{told}." in words(found)

    run.tell(
        400, run.agent(), "worker.succeeded", rank=2, local_rank=2, attempt=0
    )  # as one that joins: it waits for them
    assert f"{told}; it ended with code 0, and may have been done." in words(answer(run))


@pytest.mark.parametrize("on", [0, 40])
def test_who_is_killed_in_a_long_first_step_had_not_gone_quiet(on: int) -> None:
    """Of a step that is observed nobody says anything before its end; who says nothing as the others go on has."""
    run = Run()
    run.start(0, run.agent(), 0, range(3))
    for rank in range(3):
        run.metric(2, run.worker(rank), "loaded", 1)
        for step in range(2 + on) if rank else ():
            run.tell(100 + step, run.worker(rank), "step.observed", step=step, took_ns=10**9)
    run.failed(100.5 + on, run.agent(), 0, 0, signal="SIGKILL")
    assert [one.rank for one in answer(run).quiet] == ([0] if on else [])


def test_who_never_began_the_step_in_which_the_others_wait_went_quiet() -> None:
    """One that marks its steps says when it begins the first: who says no such thing hangs before it."""
    run = Run()
    run.start(0, run.agent(), 0, range(4))
    for rank in range(4):
        run.tell(5, run.worker(rank), "restore.started", mark_id=1)
        if rank != 2:
            run.tell(6, run.worker(rank), "restore.ended", mark_id=1)
            run.steps(run.worker(rank), range(30, 32), 300 + 0.01 * rank, 0.5, ended=False)
    assert [(one.rank, one.since_s) for one in answer(run).quiet] == [(2, 5)]


def test_a_rank_that_marks_its_steps_is_not_late_beside_others_that_were_observed() -> None:
    """What is observed of a step begins with the end of the one before: its data is in it, which stands before a mark."""
    run = Run()
    run.start(0, run.agent(), 0, range(3))
    for step in range(60):
        run.tell(1.06 + step / 4, run.worker(0), "step.started", step=step)
        run.tell(1.24 + step / 4, run.worker(0), "step.ended", step=step)
        for rank in (1, 2):
            run.tell(1.241 + step / 4, run.worker(rank), "step.observed", step=step, took_ns=240_000_000)
    assert [one.rank for one in answer(run).ranks if one.straggler] == []


def test_a_process_without_a_rank_that_went_quiet() -> None:
    """Who went quiet and has no rank is called a process, not rank None."""
    run = Run()
    run.steps(run.worker(None, pid=7), range(5), 0, 1)
    run.steps(run.worker(None, pid=8), range(200), 0, 1)
    text = words(answer(run))
    assert "A process on a went quiet at +5.0 s" in text
    assert "2 processes, a step takes" in text


def test_the_quietest_comes_first() -> None:
    """Of several ranks that went quiet the one that did so first is named first."""
    run = ranks([1.0] * 7)
    ends = {run.worker(rank).process: run.records[0].time_ns + end * 1e9 for rank, end in ((1, 90), (4, 40))}
    run.records = [record for record in run.records if record.time_ns < ends.get(record.context.process, 1e30)]
    assert [silence.rank for silence in answer(run).quiet] == [4, 1]


def test_the_ordinary_end_is_no_silence() -> None:
    """The rank that was killed, and those that were stopped a moment later, did not go quiet."""
    assert answer(two_attempts()).quiet == []


def test_no_steps() -> None:
    """Without marked steps the answer says how to mark them."""
    run = Run()
    run.start(0, run.agent(), 0, range(2))
    found = answer(run)
    assert (found.median_s, found.ranks) == (None, [])
    assert "with elastic_events.step(n)" in words(found)


def test_many_ranks_fit_the_screen() -> None:
    """Of a hundred ranks the slowest are shown, and how many more there are; the JSON has all of them."""
    found = answer(ranks([1.0 + rank / 1e4 for rank in range(100)], steps=3))
    text = shown(found)
    assert "80 more ranks" in text
    assert max(map(len, text.splitlines())) <= 80
    assert len(json.loads(msgspec.json.encode(found))["ranks"]) == 100


def test_who_waits_for_a_checkpoint_of_another_is_not_quiet() -> None:
    """Ranks that finished the last step wait while rank 0 saves, and have nothing to record."""
    run = Run()
    run.start(0, run.agent(), 0, range(3))
    for rank in range(3):
        run.steps(run.worker(rank), range(10), 1, 0.5)
    run.tell(6, run.worker(0), "checkpoint.started", step=9)
    run.tell(30, run.worker(0), "checkpoint.ended", step=9)
    assert answer(run).quiet == []
    run.tell(31, run.worker(0), "checkpoint.started", step=9)
    assert answer(run).quiet == []


def test_programs_without_a_rank_wait_for_nobody() -> None:
    """Scripts that ran at the same time under one name need not be one job: none is late for another."""
    run = Run()
    for number in range(3):
        for step in range(20):
            who = run.worker(None, pid=200 + number)
            begin = 1 + step + (0.4 if number == 2 else 0.0)
            run.tell(begin, who, "step.started", step=step)
            run.tell(begin + 0.5, who, "step.ended", step=step)
    assert [one.straggler for one in answer(run).ranks] == ["", "", ""]


def test_what_is_no_step_for_sure_is_told() -> None:
    """Where optimizers took turns in no fixed round, `slow` and `goodput` say so, and count no steps."""
    run = Run()
    run.start(0, run.agent(), 0, range(2))
    for rank in range(2):
        for step in range(20):
            number = step if step < 5 else f"~{step}"
            run.tell(2 + step, run.worker(rank), "step.observed", step=number, took_ns=10**9)
    found = answer(run)
    assert "no fixed round" in found.unsure["0"]
    assert "Attempt 0: several optimizers stepped in no fixed round" in words(found)
    (story,) = build(run.records)
    console = Console(file=io.StringIO(), width=120)
    console.print(goodput_terminal(goodput(story)))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "Steps of optimizers of 1.0 s in the median." in text
    assert "20 steps" not in text


def test_who_holds_up_every_fourth_step_is_late() -> None:
    """Where gradients are accumulated ranks meet in the last of four: beside them it seems that this one goes its own pace."""
    chance = random.Random(1)
    run = Run()
    run.start(0, run.agent(), 0, range(4))
    times = [1.0] * 4
    for step in range(80):
        begins = [at + 0.01 + chance.random() * 0.0025 for at in times]
        begins[3] += 0.2 + chance.gauss(0, 0.01)
        times = [begin + 0.5 + chance.gauss(0, 0.01) for begin in begins]
        if step % 4 == 3:
            times = [max(times) + chance.random() * 0.001 for _ in times]
        for rank in range(4):
            run.tell(begins[rank], run.worker(rank), "step.started", step=step)
            run.tell(times[rank], run.worker(rank), "step.ended", step=step)
    assert [(one.rank, one.straggler) for one in answer(run).ranks if one.straggler] == [(3, "late")]


@pytest.mark.parametrize(("begins", "ends"), [(0.02, 0.02), (-0.02, -0.02), (0.02, 0)])
def test_a_host_whose_clock_is_ahead_is_not_late(begins: float, ends: float) -> None:
    """All of its ranks begin and end each step by as much later; who only begins it later is late."""
    run = Run()
    for node, host in enumerate("abc"):
        agent = run.agent(host)
        run.tell(0, agent, "rendezvous.completed", round=0, world_size=3, rank=node, duration_ms=10.0)
        run.start(0, agent, 0, range(2 * node, 2 * node + 2), round=0)
        for rank in (2 * node, 2 * node + 1):
            who = run.worker(rank, host=host)
            for step in range(60):
                run.tell(1 + 0.12 * step + (node == 2) * begins, who, "step.started", step=step)
                run.tell(1.1 + 0.12 * step + (node == 2) * ends + 0.001 * (rank % 2), who, "step.ended", step=step)
    assert {one.rank for one in answer(run).ranks if one.straggler} == (set() if ends else {4, 5})


@pytest.mark.parametrize("observed", [True, False])
def test_a_first_step_may_take_as_long_as_one_before(observed: bool) -> None:
    """It compiles, also in the attempt behind a failure: nobody hangs, or went quiet, who is killed or looked at meanwhile."""
    for ended in (True, False):
        run = Run()
        agent = run.agent()
        for attempt, begin in enumerate((0.0, 200.0)):
            run.start(begin, agent, attempt, range(3), restart=attempt)
            for who in (run.worker(rank, attempt) for rank in range(3)):
                run.metric(begin + 1, who, "loaded", 1)
                for step, took in enumerate([] if attempt else [97, *[1] * 20]):
                    since = begin + 2 + (0 if not step else 96 + step)
                    if observed:
                        run.tell(since + took, who, "step.observed", step=step, took_ns=took * 10**9, data_ns=1)
                    else:
                        run.tell(since, who, "step.started", step=step)
                        run.tell(since + took, who, "step.ended", step=step)
                if attempt and not observed:
                    run.tell(begin + 2, who, "step.started", step=0)
                if attempt and who.rank:
                    run.tell(begin + 62, who, "worker.exception", type="RuntimeError", message="closed by peer")
            if attempt and not ended:
                break
            end = begin + (62.2 if attempt else 120)
            run.failed(end, agent, attempt, 0, signal="SIGKILL", died_ns=START + round((end - 0.3) * 1e9))
            for rank in (1, 2):
                run.failed(end, agent, attempt, rank, exit_code=1, first=False)
            run.tell(end, agent, "attempt.ended", attempt=attempt, outcome="failed")
        assert (answer(run).hangs, answer(run).quiet) == ([], [])


def test_a_hang_in_the_first_step_of_a_later_attempt() -> None:
    """A collective that runs into its timeout of ten minutes took too long, also where the first step of all took five."""
    run = Run()
    agent = run.agent()
    for attempt, begin in enumerate((0, 1000)):
        run.start(begin, agent, attempt, range(2), restart=attempt)
        for who in (run.worker(rank, attempt) for rank in range(2)):
            run.tell(begin + 2, who, "step.started", step=0)
            if not attempt:
                run.tell(begin + 332, who, "step.ended", step=0)
                run.steps(who, range(1, 20), begin + 332, 1)
            elif who.rank:
                run.tell(begin + 602, who, "worker.exception", type="RuntimeError", message="timed out")
        end = begin + (603 if attempt else 400)
        run.failed(end, agent, attempt, 1, exit_code=1)
        run.failed(end, agent, attempt, 0, signal="SIGTERM", first=False, victim=True)
        run.tell(end, agent, "attempt.ended", attempt=attempt, outcome="failed")
    assert [hang.attempt for hang in answer(run).hangs] == [1]


@pytest.mark.parametrize("ahead", [-1.2, -60.8])
def test_who_recorded_before_the_others_by_a_clock_is_not_quiet(ahead: float) -> None:
    """The clocks of two hosts are apart by as much as is not set right, in a job that runs."""
    run = Run()
    for node, host in enumerate("ab"):
        agent = run.agent(host)
        run.tell(
            node * (ahead + 0.5), agent, "rendezvous.completed", round=0, world_size=2, rank=node, duration_ms=10.0
        )
        run.start(node * ahead, agent, 0, range(4 * node, 4 * node + 4), round=0)
        for rank in range(4 * node, 4 * node + 4):
            run.steps(run.worker(rank, host=host), range(60), 1 + node * ahead, 0.1)
    assert answer(run).quiet == []


@pytest.mark.parametrize("some", [False, True])
def test_a_host_for_whose_data_the_others_wait_is_late(some: bool) -> None:
    """They meet behind the step: it begins and ends each by as much later, but never by the same, as by a clock."""
    run, chance = Run(), random.Random(0)
    for node in range(4):
        run.start(0, run.agent("abcd"[node]), 0, range(node, node + 1), round=0)
    at = 1.0
    for step in range(60):
        late = chance.choice([0, 0, 0.4]) if some else chance.expovariate(5)
        for rank in range(4):
            who, begin = run.worker(rank, host="abcd"[rank]), at + late * (rank == 3) + chance.uniform(0, 0.003)
            run.tell(begin, who, "step.started", step=step)
            run.tell(begin + 0.1, who, "step.ended", step=step)
        at += late + 0.13
    assert {one.rank for one in answer(run).ranks if one.straggler} == {3}


def test_a_host_for_whose_data_the_others_wait_now_and_then_is_late() -> None:
    """In three of ten steps, which its clock cannot be."""
    run, chance = Run(), random.Random(1)
    for node in range(2):
        run.start(0, run.agent("ab"[node]), 0, range(4 * node, 4 * node + 4), round=0)
    at = 1.0
    for step in range(100):
        late = 0.1 * (chance.random() < 0.3)
        begins = [at + late * (rank > 3) + chance.random() * 0.003 for rank in range(8)]
        ends = [begin + 0.1 + chance.random() * 0.003 for begin in begins]
        for rank in range(8):
            run.tell(begins[rank], run.worker(rank, host="ab"[rank // 4]), "step.started", step=step)
            run.tell(ends[rank], run.worker(rank, host="ab"[rank // 4]), "step.ended", step=step)
        at = max(ends)
    assert {one.rank for one in answer(run).ranks if one.straggler} == {4, 5, 6, 7}


def test_a_rank_that_is_as_late_in_each_step_is_not_so_by_its_clock() -> None:
    """The other one of its host is not: it begins, and ends, a step a little later than the first."""
    run, chance = Run(), random.Random(0)
    for node in range(2):
        run.start(0, run.agent("ab"[node]), 0, range(2 * node, 2 * node + 2), round=0)
    for step in range(60):
        for rank, late in enumerate((0, 0.001, chance.random() * 0.003, 0.1)):
            who = run.worker(rank, host="ab"[rank // 2])
            run.tell(1 + 0.25 * step + late, who, "step.started", step=step)
            run.tell(1.1 + 0.25 * step + late, who, "step.ended", step=step)
    assert {one.rank for one in answer(run).ranks if one.straggler} == {3}


def test_a_late_host_is_told_beside_checkpoints() -> None:
    """Behind each fifth step all save: that they rest there does not hide for whom they rest behind the others."""
    run, chance, at = Run(), random.Random(1), 1.0
    for node in range(2):
        run.start(0, run.agent("ab"[node]), 0, range(2 * node, 2 * node + 2), round=0)
    for step in range(100):
        late = chance.uniform(0.1, 0.3)
        begins = [at + late * (rank > 1) + chance.random() * 0.005 for rank in range(4)]
        for rank in range(4):
            run.tell(begins[rank], run.worker(rank, host="ab"[rank // 2]), "step.started", step=step)
            run.tell(begins[rank] + 0.5, run.worker(rank, host="ab"[rank // 2]), "step.ended", step=step)
        at = max(begins) + 0.55 + (step % 5 == 4)
    assert {one.rank for one in answer(run).ranks if one.straggler} == {2, 3}


def test_a_host_that_ends_its_steps_now_and_then_later_is_not_late_by_its_clock() -> None:
    """The others wait some milliseconds for it, and it begins each step as much ahead: that is its clock."""
    run, chance, at = Run(), random.Random(3), 1.0
    for node in range(2):
        run.start(0, run.agent("ab"[node]), 0, range(4 * node, 4 * node + 4), round=0)
    for step in range(200):
        ends = [at + 0.5 + (0.03 if rank > 3 else 0.002) * chance.expovariate(1) for rank in range(8)]
        for rank in range(8):
            who, ahead = run.worker(rank, host="ab"[rank // 4]), 0.2 * (rank > 3)
            run.tell(at + ahead + 0.001 * chance.random(), who, "step.started", step=step)
            run.tell(ends[rank] + ahead, who, "step.ended", step=step)
        at = max(ends) + 0.05
    assert [one.rank for one in answer(run).ranks if one.straggler] == []


@pytest.mark.parametrize("steps", [6, 12])
def test_of_a_few_steps_nobody_is_seen_to_wait(steps: int) -> None:
    """A host is not called late then whose clock may be ahead."""
    run, at = Run(), 1.0
    for node in range(2):
        run.start(0, run.agent("ab"[node]), 0, range(2 * node, 2 * node + 2), round=0)
    for step in range(steps):
        late = 0.2 + 0.1 * (step % 3)
        for rank in range(4):
            who, begin = run.worker(rank, host="ab"[rank // 2]), at + late * (rank > 1)
            run.tell(begin, who, "step.started", step=step)
            run.tell(begin + 0.3, who, "step.ended", step=step)
        at += late + 0.32
    assert {one.rank for one in answer(run).ranks if one.straggler} == ({2, 3} if steps == 12 else set())


@pytest.mark.parametrize("meets", ["within", "behind"])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_host_whose_clock_is_ahead_is_not_late_where_no_step_is_like_another(
    meets: str, seed: int, *, late: bool
) -> None:
    """All ranks begin and end steps now sooner, now later, as real ones do. Where a host is late, the others rest for it."""
    run, chance = Run(), random.Random(seed)
    for node, host in enumerate("abc"):
        run.start(0, run.agent(host), 0, range(2 * node, 2 * node + 2), round=0)
    at = 1.0
    for step in range(100):
        work = chance.uniform(0.05, 0.25) if late else 0
        begins = [at + chance.expovariate(40) + work * (rank > 3) for rank in range(6)]
        ends = [
            (begin if meets == "behind" else max(begins)) + 0.3 + chance.expovariate(40 if meets == "behind" else 400)
            for begin in begins
        ]
        for rank in range(6):
            ahead, who = 0.0 if late or rank < 4 else 0.1, run.worker(rank, host="abc"[rank // 2])
            run.tell(begins[rank] + ahead, who, "step.started", step=step)
            run.tell(ends[rank] + ahead, who, "step.ended", step=step)
        at = max(ends) + 0.02
    assert {one.rank for one in answer(run).ranks if one.straggler} == ({4, 5} if late else set())


def test_a_rank_beside_which_others_of_its_host_went_on_has_no_other_clock() -> None:
    """It is quiet as soon as in a job of one host, however far the clocks may be off."""
    run = Run()
    for node, host in enumerate("ab"):
        agent = run.agent(host)
        run.tell(node * 0.9, agent, "rendezvous.completed", round=0, world_size=2, rank=node, duration_ms=10.0)
        run.start(0, agent, 0, range(2 * node, 2 * node + 2), round=0)
        for rank in range(2 * node, 2 * node + 2):
            run.steps(run.worker(rank, host=host), range(60 if rank != 3 else 45), 1, 0.1)
    assert [one.rank for one in answer(run).quiet] == [3]
