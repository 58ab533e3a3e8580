"""Where the hours went: every bucket against runs worked out by hand, and their sum against the wall time."""

import io
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from elastic_events.reading.buckets import BUCKETS, Goodput, goodput, headline
from elastic_events.reading.builder import build
from elastic_events.reading.goodput_html import goodput_html
from elastic_events.reading.goodput_terminal import explain, goodput_terminal
from tests.reading.runs import START, Run, two_attempts
from tests.streams import STREAMS, load


def answer(run: Run) -> Goodput:
    """The goodput of a run that is one story."""
    (story,) = build(run.records)
    return goodput(story)


def parts(found: Goodput) -> dict[str, float]:
    """Seconds by bucket, without those that are empty."""
    return {bucket.name: bucket.seconds for bucket in found.buckets if bucket.seconds}


def test_a_failure_and_a_restart() -> None:
    """Two steps count before the failure; the third is done again, the fourth was cut off; the rest is overhead."""
    found = answer(two_attempts())
    assert parts(found) == {
        "productive": 7.5,  # 4 to 6.5, 14 to 19
        "lost": 2.5,  # step 2, which is done again: 6.5 to 7.75; step 3, which was cut off: to 9
        "startup": 6,  # 1 to 4, 11 to 14
        "rendezvous": 2.5,  # 0 to 1, 9.5 to 11
        "detection": 0.5,  # 9 to 9.5
        "idle": 1,  # 19 to 20
    }
    assert found.ettr == 7.5 / 20
    assert (found.steps, found.steps_redone, found.steps_cut, found.step_s) == (6, 1, 1, 1.25)
    assert (found.failures, found.between_failures_s) == (1, 20)
    assert [(a.start_s, a.wall_s) for a in found.attempts] == [(0, 9.5), (9.5, 10.5)]
    assert found.attempts[0].buckets["detection"] == 0.5
    assert found.attempts[1].buckets["lost"] == 0


def test_an_open_step_of_a_job_that_succeeded() -> None:
    """The step in which a script ended by itself was not cut off by a failure."""
    run = Run()
    agent = run.agent()
    run.tell(0, agent, "job.started")
    run.start(0, agent, 0, range(1))
    run.steps(run.worker(0), range(4), 1, 2, ended=False)
    run.tell(9, agent, "attempt.ended", attempt=0, outcome="succeeded")
    run.tell(9, agent, "job.succeeded")
    found = answer(run)
    assert (found.steps, found.steps_cut) == (3, 0)


def test_a_rank_that_hung() -> None:
    """A cut step counts as lost for as long as the longest step took; the silence after it is failure detection."""
    run = Run()
    agent = run.agent()
    run.tell(0, agent, "job.started")
    run.start(0, agent, 0, range(1))
    run.steps(run.worker(0), range(4), 1, 2, ended=False)
    run.failed(100, agent, 0, 0, signal="SIGABRT")
    run.tell(100, agent, "attempt.ended", attempt=0, outcome="failed")
    run.tell(101, agent, "job.failed", reason="workers failed")
    assert parts(answer(run)) == {"startup": 1, "productive": 6, "lost": 2, "detection": 92}


def test_a_failure_between_steps() -> None:
    """A worker that died outside a step was last alive at its last record; from there on nobody had noticed."""
    run = Run()
    agent = run.agent()
    run.tell(0, agent, "job.started")
    run.start(0, agent, 0, range(1))
    run.steps(run.worker(0), range(2), 1, 2)
    run.metric(6, run.worker(0), "loss", 0.5)
    run.failed(8, agent, 0, 0, exit_code=1)
    run.tell(8, agent, "attempt.ended", attempt=0, outcome="failed")
    run.tell(8, agent, "job.failed", reason="workers failed")
    assert parts(answer(run)) == {"startup": 1, "productive": 4, "idle": 1, "detection": 2}


@pytest.mark.parametrize(("saves", "held"), [(False, {"idle": 3}), (True, {"checkpoint": 3})])
def test_what_a_rank_did_until_it_was_killed_is_no_detection(saves: bool, held: dict[str, float]) -> None:
    """From its last step to its death a killed worker evaluated, or wrote a checkpoint: the failure is its death."""
    run = Run()
    agent = run.agent()
    run.tell(0, agent, "job.started")
    run.start(0, agent, 0, range(1))
    run.steps(run.worker(0), range(2), 1, 2)
    if saves:
        run.tell(5, run.worker(0), "checkpoint.started", step=1)
    run.failed(9, agent, 0, 0, signal="SIGKILL", died_ns=START + 8 * 10**9)
    run.tell(9, agent, "attempt.ended", attempt=0, outcome="failed")
    run.tell(9, agent, "job.failed", reason="workers failed")
    assert parts(answer(run)) == {"startup": 1, "productive": 4, "detection": 1, **held}


def test_a_checkpoint_in_which_a_rank_hung() -> None:
    """A checkpoint that was cut off counts for as long as the longest one took, as a step does."""
    run = Run()
    agent, worker = run.agent(), run.worker(0)
    run.tell(0, agent, "job.started")
    run.start(0, agent, 0, range(1))
    begin = run.steps(worker, range(1), 1, 2)
    checkpoints(run, (0, begin, begin + 2))
    begin = run.steps(worker, range(1, 2), begin + 2, 2)
    run.tell(begin, worker, "checkpoint.started", step=1)
    run.failed(100, agent, 0, 0, signal="SIGABRT")
    run.tell(100, agent, "attempt.ended", attempt=0, outcome="failed")
    run.tell(100, agent, "job.failed", reason="workers failed")
    assert parts(answer(run)) == {"startup": 1, "productive": 4, "checkpoint": 4, "detection": 91}


def checkpoints(run: Run, *spans: tuple[int, float, float]) -> None:
    """Record checkpoints of ranks, from and to."""
    for rank, start, end in spans:
        run.tell(start, run.worker(rank), "checkpoint.started", step=0)
        run.tell(end, run.worker(rank), "checkpoint.ended", step=0)


def running(steps: float = 10) -> Run:
    """One rank that runs one step, from 0 on; the job ends at 20."""
    run = Run()
    agent = run.agent()
    run.tell(0, agent, "job.started")
    run.start(0, agent, 0, range(2))
    run.steps(run.worker(0), range(1), 0, steps)
    run.tell(20, agent, "attempt.ended", attempt=0, outcome="succeeded")
    run.tell(20, agent, "job.succeeded")
    return run


def test_a_rank_that_writes_holds_up_the_others() -> None:
    """While rank 1 writes a checkpoint and runs no step, rank 0 waits inside of its own: that time is the checkpoint's."""
    run = running()
    checkpoints(run, (1, 2, 5), (1, 4, 6))
    assert parts(answer(run)) == {"checkpoint": 4, "productive": 6, "idle": 10}


def test_a_checkpoint_beside_a_step_costs_nothing() -> None:
    """A checkpoint that a rank writes while its own step runs is asynchronous: the step counts."""
    run = Run()
    agent, worker = run.agent(), run.worker(0)
    run.tell(0, agent, "job.started")
    run.start(0, agent, 0, range(1))
    run.tell(0, worker, "step.started", step=0)
    checkpoints(run, (0, 2, 5))
    run.tell(10, worker, "step.ended", step=0)
    run.tell(10, agent, "job.succeeded")
    assert parts(answer(run)) == {"productive": 10}


def test_a_late_joiner_waits_while_others_train() -> None:
    """A node's wait in the rendezvous costs the job nothing as long as the others train; then the regrouping does."""
    run = Run()
    first, late = run.agent("a"), run.agent("b")
    run.tell(0, first, "job.started")
    run.tell(1, first, "rendezvous.completed", round=0, world_size=1, rank=0, node="a", duration_ms=1000)
    run.start(1, first, 0, range(1), round=0)
    run.steps(run.worker(0), range(4), 1, 2)
    run.tell(9, first, "attempt.ended", attempt=0, outcome="membership")
    for agent, ms in ((first, 2000), (late, 8000)):
        run.tell(12, agent, "rendezvous.completed", round=1, world_size=2, rank=0, node="x", duration_ms=ms)
    run.start(12, first, 1, range(1), restart=1, round=1)
    run.steps(run.worker(0, 1), range(4, 6), 12, 2)
    run.tell(16, first, "attempt.ended", attempt=1, outcome="succeeded")
    run.tell(16, first, "job.succeeded")
    assert parts(answer(run)) == {"rendezvous": 4, "productive": 12}


def test_a_run_without_marks() -> None:
    """Without a step the ratio is unknown, and so is what the workers did; the answer says how to mark steps."""
    run = Run()
    agent = run.agent()
    run.tell(0, agent, "job.started")
    run.start(2, agent, 0, range(1))
    run.tell(9, agent, "attempt.ended", attempt=0, outcome="succeeded")
    run.tell(10, agent, "job.succeeded")
    found = answer(run)
    assert (parts(found), found.ettr, found.step_s) == ({"unknown": 7, "idle": 3}, None, None)
    assert not {"productive", "lost", "startup"} & {bucket.name for bucket in found.buckets}
    assert json.loads(msgspec.json.encode(found))["ettr"] is None
    assert "is unknown: no steps were recorded" in " ".join(shown(found).split())
    assert "with elastic_events.step(n)" in shown(found)
    assert "unknown: no steps were recorded" in goodput_html(found)


def test_an_attempt_without_a_step_is_startup() -> None:
    """An attempt that failed before its first step, in a job that has steps, was starting until it failed."""
    run = two_attempts()
    agent = run.agent()
    run.records = [record for record in run.records if record.name != "job.succeeded"]
    run.tell(21, agent, "rendezvous.completed", round=2, world_size=1, rank=0, node="a", duration_ms=1000)
    run.start(21, agent, 2, range(1), restart=2)
    run.failed(25, agent, 2, 0, exit_code=1)
    run.tell(25, agent, "attempt.ended", attempt=2, outcome="failed")
    run.tell(26, agent, "job.failed", reason="workers failed")
    assert {name: s for name, s in answer(run).attempts[2].buckets.items() if s} == {
        "idle": 0.5,
        "rendezvous": 1,
        "startup": 4,
        "detection": 1,
    }


def test_a_step_that_still_runs() -> None:
    """In a job that runs on, the step of the moment is not lost."""
    run = Run()
    agent = run.agent()
    run.tell(0, agent, "job.started")
    run.start(0, agent, 0, range(1))
    run.steps(run.worker(0), range(3), 0, 2, ended=False)
    run.metric(5, run.worker(0), "loss", 1.0)
    assert parts(answer(run)) == {"productive": 4, "idle": 1}


@pytest.mark.parametrize("name", STREAMS)
def test_captured_streams(name: str) -> None:
    """torch's own streams hold no steps: rendezvous and detection are told, the rest is unknown or idle, and it sums up."""
    (story,) = build(load(name))
    found = goodput(story)
    assert sum(bucket.seconds for bucket in found.buckets) == pytest.approx(found.wall_s, rel=1e-9)
    assert set(parts(found)) <= {"rendezvous", "detection", "unknown", "idle"}
    assert sum(bucket.share for bucket in found.buckets) == pytest.approx(1)


EVENTS = ("job.started", "job.failed", "attempt.started", "attempt.ended", "rendezvous.completed", "worker.failed")
MARKS = tuple(f"{what}.{edge}" for what in ("step", "checkpoint", "restore") for edge in ("started", "ended"))
small = st.integers(-2, 5)
facts = st.fixed_dictionaries(
    {
        "attempt": small,
        "round": small,
        "rank": small,
        "step": small,
        "duration_ms": st.floats(-1e6, 1e6),
        "outcome": st.sampled_from(["failed", "succeeded", "membership", "odd"]),
        "first": st.booleans(),
    }
)
told = st.tuples(st.floats(-1e4, 1e4), st.sampled_from([*EVENTS, *MARKS]), st.integers(0, 3), facts)


@settings(max_examples=300, deadline=None)
@given(st.lists(told, min_size=1, max_size=60))
def test_the_buckets_are_the_wall_time(said: list[tuple[float, str, int, dict[str, Any]]]) -> None:
    """Whatever was recorded, in whatever order: no bucket is negative, and they sum up to the wall time."""
    run = Run()
    for at, name, who, about in said:
        context = run.worker(who) if name in MARKS else run.agent("ab"[who % 2])
        run.tell(at, context, name, **about)
    for story in build(run.records):
        found = goodput(story)
        assert all(bucket.seconds >= 0 for bucket in found.buckets)
        assert sum(bucket.seconds for bucket in found.buckets) == pytest.approx(found.wall_s, rel=1e-9, abs=1e-9)
        by_attempt = sum(sum(attempt.buckets.values()) for attempt in found.attempts)
        assert not found.attempts or by_attempt == pytest.approx(found.wall_s, rel=1e-9, abs=1e-9)


def shown(found: Goodput, width: int = 80) -> str:
    """The goodput as a terminal shows it."""
    console = Console(file=io.StringIO(), width=width)
    console.print(goodput_terminal(found, width))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_the_screen() -> None:
    """The first line answers; the tables fit into 80 columns with nothing cut off."""
    text = shown(answer(two_attempts()))
    assert text.startswith("Run run: 37.5% of 20.0 s moved the training on (ETTR).")
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert "6 steps of 1.2 s in the median, 1 done again, 1 cut off." in text


def test_json_and_explanation() -> None:
    """The JSON holds every bucket by name; `--explain` tells each of them, and the source of the formula."""
    document = json.loads(msgspec.json.encode(answer(two_attempts())))
    assert {bucket["name"] for bucket in document["buckets"]} == set(BUCKETS)
    for name in BUCKETS:
        assert f"\n  {name} " in explain()
    assert "arXiv 2410.21680" in explain()
    assert all(max(map(len, explain(width).splitlines())) <= width for width in (40, 80, 120))
    assert " ".join(explain(60).split()) == " ".join(explain(120).split())


def observed(data_ns: int, long_s: float) -> Run:
    """Thirty steps of a tenth of a second that were observed; each tenth of them takes `long_s`."""
    run = Run()
    agent = run.agent()
    run.tell(0, agent, "job.started")
    run.start(0, agent, 0, range(1))
    at = 1.0
    for step in range(30):
        took = long_s if step % 10 == 9 else 0.1
        at += took
        about = {"took_ns": round(took * 1e9), "data_ns": data_ns}
        run.tell(at, run.worker(0), "step.observed", step=step, **about)
    run.tell(at, agent, "attempt.ended", attempt=0, outcome="succeeded")
    run.tell(at, agent, "job.succeeded")
    return run


@pytest.mark.parametrize(("data_ns", "long_s", "sure"), [(0, 3.0, False), (200_000, 3.0, True), (0, 0.12, True)])
def test_a_step_that_holds_what_stood_before_it_is_not_sure(data_ns: int, long_s: float, sure: bool) -> None:
    """Where no DataLoader tells when a step began, and some took many times the others, goodput says that it is not sure."""
    (story,) = build(observed(data_ns, long_s).records)
    answer = goodput(story)
    assert (answer.attempts[0].unsure == "") == sure
    out = io.StringIO()
    Console(file=out, width=300).print(goodput_terminal(answer))
    told = "3 of 30 took over 10 times the median, 9.0 s in all: how much of that was a step is not known"
    assert (told in out.getvalue()) == (not sure)


@pytest.mark.parametrize("error", [{}, {"error": "FileNotFoundError"}])
def test_a_checkpoint_that_could_not_be_loaded_was_not(error: dict[str, str]) -> None:
    """A script that finds no checkpoint begins at the beginning: nothing is unsure of its steps."""
    run = Run()
    run.start(0, run.agent(), 0, range(1))
    run.tell(1, run.worker(0), "restore.started", path="/data/model.pt", observed=True, mark_id=1)
    run.tell(2, run.worker(0), "restore.ended", path="/data/model.pt", observed=True, mark_id=1, **error)
    run.tell(3, run.worker(0), "step.observed", step=0, took_ns=10**8, data_ns=1)
    (story,) = build(run.records)
    assert ("which this run was not seen to save" in story.attempts[0].unsure) is not bool(error)


@pytest.mark.parametrize("path", ["", "/data/else"])
def test_a_checkpoint_without_a_path_was_loaded_all_the_same(path: str) -> None:
    """Who was seen to load a checkpoint whose save nobody saw, or that has no path, does no steps again that are known."""
    run = observed(200_000, 0.1)
    run.records = [record for record in run.records if record.name != "job.succeeded"]
    last = run.records[-1]
    run.records[-1:] = []
    agent = run.agent()
    run.failed(6, agent, 0, 0, exit_code=1)
    run.tell(6, agent, "attempt.ended", attempt=0, outcome="failed")
    run.start(7, agent, 1, range(1), restart=1)
    about = {"observed": True, "mark_id": 1, **({"path": path} if path else {})}
    run.tell(8, run.worker(0, 1), "restore.started", **about)
    run.tell(9, run.worker(0, 1), "restore.ended", **about)
    run.tell(10, run.worker(0, 1), "step.observed", step=0, took_ns=10**8, data_ns=1)
    run.tell(11, agent, "attempt.ended", attempt=1, outcome="succeeded")
    assert last.name == "attempt.ended"
    (story,) = build(run.records)
    answer = goodput(story)
    assert (answer.ettr, answer.steps, answer.steps_redone) == (None, None, None)
    assert "which steps were done again is not known" in headline(answer)
    assert "nobody was seen to save" in answer.attempts[1].unsure


@pytest.mark.parametrize("observed", [True, False])
def test_what_hung_is_detection_whoever_ended_it(observed: bool) -> None:
    """In the first checkpoint, until a timeout, or behind a step that one rank never ended, until somebody killed it."""
    run = Run()
    agent = run.agent()
    run.start(1, agent, 0, range(4))
    for rank in range(4):
        who = run.worker(rank)
        if observed:
            for step in range(20 - (rank == 1)):
                run.tell(3 + step, who, "step.observed", step=step, took_ns=10**9, data_ns=1)
        else:
            run.tell(run.steps(who, range(20), 2, 0.5), who, "checkpoint.started", step=19)
    run.failed(1822, agent, 0, 1, signal="SIGKILL" if observed else "SIGABRT", died_ns=START + 1_821_900_000_000)
    for rank in (0, 2, 3):
        run.failed(1822, agent, 0, rank, signal="SIGTERM", first=False, victim=True)
    run.tell(1822, agent, "attempt.ended", attempt=0, outcome="failed")
    assert parts(answer(run))["detection"] == pytest.approx(1800 if observed else 1810, abs=1)
