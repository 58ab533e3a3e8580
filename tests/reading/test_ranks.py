"""Which process is which rank: of workers, their children, programs without a launcher, and launchers that say little."""

import pytest

from elastic_events.bus.context import Context
from elastic_events.reading.buckets import goodput
from elastic_events.reading.builder import build
from elastic_events.reading.overview import summary
from elastic_events.reading.story import Story
from tests.reading.runs import Run


def told(run: Run) -> Story:
    """The one story of a run."""
    (story,) = build(run.records)
    return story


def process(rank: int | None, pid: int, started: int) -> Context:
    """A process as it is in a real run: its identity holds pid, start in clock ticks, and a nonce."""
    return Context("run", f"{pid:x}-{started:x}-0", "a", pid, rank, rank, restart=0)


@pytest.mark.parametrize("agent", ["names pids", "names none", "none"])
def test_children_are_no_ranks(agent: str) -> None:
    """What shares a rank's environment, as a DataLoader's workers do, is a child of it: also if it records before it."""
    run = Run()
    if agent != "none":
        launcher = run.agent()
        run.tell(0, launcher, "attempt.started", attempt=0, world_size=2)
        for rank in range(2):
            pid = {"pid": 100 + rank} if agent == "names pids" else {}
            run.tell(0, launcher, "worker.started", attempt=0, rank=rank, local_rank=rank, **pid)
    for rank in range(2):
        for child in range(2):
            run.tell(1, process(rank, 200 + 2 * rank + child, 900), "data.opened")
        run.steps(process(rank, 100 + rank, 800), range(3), 2, 1)
        run.tell(9, process(rank, 200 + 2 * rank, 900), "worker.died", pid=200 + 2 * rank, host="a", signal="SIGKILL")
    (attempt,) = told(run).attempts
    assert [(w.rank, w.process and w.process.context.pid, w.outcome) for w in attempt.workers] == [
        (0, 100, "unknown"),
        (1, 101, "unknown"),
    ]
    assert [sorted(p.context.pid for p in w.children) for w in attempt.workers] == [[200, 201], [202, 203]]
    answer = summary(told(run))
    assert (answer.ranks, answer.children, answer.attempts[0].first_failure) == (2, 4, None)


def test_a_rank_that_began_to_record_before_it_had_one() -> None:
    """What the agent started is the rank, also where its records name none, as of a function that torch spawned."""
    run = Run()
    run.start(0, run.agent(), 0, range(2))
    for rank in range(2):
        run.steps(process(None, 100 + rank, 800), range(3), 2, 1)
    story = told(run)
    assert [(w.rank, w.process and w.process.context.pid) for w in story.workers()] == [(0, 100), (1, 101)]


def test_a_child_alone_is_no_rank() -> None:
    """Where the process that the agent started recorded nothing, a child of it is not taken for it."""
    run = Run()
    run.start(0, run.agent(), 0, range(1))
    run.tell(1, process(0, 200, 900), "data.opened")
    (worker,) = told(run).attempts[0].workers
    assert (worker.process, [child.context.pid for child in worker.children]) == (None, [200])


def test_a_program_around_the_rank() -> None:
    """What marks steps is the rank, also where the agent had started only a program around it."""
    run = Run()
    run.start(0, run.agent(), 0, range(1))
    run.tell(1, process(0, 100, 700), "wrapped")
    run.steps(process(0, 200, 900), range(3), 2, 1)
    (worker,) = told(run).attempts[0].workers
    assert worker.process is not None
    assert (worker.process.context.pid, worker.process.last_step) == (200, 2)


@pytest.mark.parametrize("around", [True, False])
@pytest.mark.parametrize("observed", [True, False])
def test_programs_that_a_rank_runs_one_after_another(*, around: bool, observed: bool) -> None:
    """A script around them, that records or does not, prepares and then trains: both made steps of one and the same rank."""
    run = Run()
    run.start(0, run.agent(), 0, range(2))
    for rank in range(2):
        if around:
            run.tell(1, process(rank, 100 + rank, 700), "wrapped")
        for stage, steps in enumerate((3, 2)):
            who = process(rank, 200 + 10 * stage + rank, 800 + 50 * stage)
            if not observed:
                run.steps(who, range(steps), 2 + 4 * stage, 1)
            for step in range(steps) if observed else ():
                run.tell(3 + 4 * stage + step, who, "step.observed", step=step, took_ns=10**9, data_ns=0)
    run.failed(9, run.agent(), 0, 1, exit_code=1)
    story = told(run)
    workers = story.attempts[0].workers
    assert [(w.rank, w.process and w.process.context.pid) for w in workers] == [(0, 210), (1, 211)]
    assert [len(w.process.starts) for w in workers if w.process is not None] == [5, 5]
    assert [len(w.children) for w in workers] == [int(around)] * 2
    answer = summary(story)
    assert (answer.ranks, "one after another" in answer.attempts[0].unsure) == (2, True)
    assert goodput(story).steps_redone == 0


def test_a_program_that_its_rank_tried_again() -> None:
    """What the first program ended with, before the script around it ran the next one, is not what the rank ended with."""
    run = Run()
    agent = run.agent()
    run.start(0, agent, 0, range(2))
    one, two = process(0, 200, 800), process(0, 210, 850)
    run.steps(one, range(3), 2, 1)
    run.tell(5.1, one, "worker.exception", type="RuntimeError", message="try again")
    for who in (two, process(1, 101, 700)):
        run.steps(who, range(20), 10, 1, ended=False)
    run.failed(40, agent, 0, 1, exit_code=1)
    run.failed(40, agent, 0, 0, signal="SIGTERM", first=False, victim=True)
    run.tell(40, agent, "attempt.ended", attempt=0, outcome="failed")
    (attempt,) = summary(told(run)).attempts
    assert attempt.first_failure is not None
    assert (attempt.first_failure.rank, attempt.victims) == (1, 1)


@pytest.mark.parametrize(
    ("how", "doubted"),
    [("fails", 10), ("exits", 10), ("goes on", 10), ("loads", 10), ("prepares", 0), ("evaluates", 0)],
)
def test_what_a_program_did_that_its_rank_ran_again(how: str, doubted: int) -> None:
    """A shell runs it until it succeeds: the second one may have done again what the first did, one that prepares did it once."""
    run = Run()
    agent = run.agent()
    run.start(0, agent, 0, range(1))
    one, two = process(0, 200, 800), process(0, 210, 950)
    run.steps(one, range(10), 1, 1)
    if how == "fails":
        run.tell(11.1, one, "worker.exception", type="RuntimeError", message="again")
    if how in ("exits", "prepares", "evaluates"):
        run.tell(11.1, one, "worker.exit", code=int(how == "exits"), message="")
    for edge in ("started", "ended") if how in ("loads", "evaluates") else ():
        run.tell(12, two, f"restore.{edge}", mark_id=7)
    run.steps(two, range(5 if how == "goes on" else 0, 15), 13, 1)
    run.tell(30, agent, "worker.succeeded", rank=0, local_rank=0, attempt=0)
    run.tell(30, agent, "attempt.ended", attempt=0, outcome="succeeded")
    found = {bucket.name: bucket.seconds for bucket in goodput(told(run)).buckets}
    assert (found["unknown"], found["lost"]) == (doubted, 0)


def test_what_is_known_of_programs_that_were_joined() -> None:
    """Two programs of a rank whose steps began with a DataLoader's batches are one of which that is known, too."""
    run = Run()
    run.start(0, run.agent(), 0, range(1))
    for stage in range(2):
        for step in range(3):
            facts = {"step": step, "took_ns": 10**9, "data_ns": 1}
            run.tell(3 + 4 * stage + step, process(0, 200 + stage, 800 + stage), "step.observed", **facts)
    (worker,) = told(run).workers()
    assert worker.process is not None
    assert (len(worker.process.starts), worker.process.fetched, worker.process.mute) == (6, True, False)


def test_one_process_that_is_its_own_launcher() -> None:
    """A process that says that its job began, and marks its steps, is a worker with steps, too."""
    run = Run()
    who = Context("run", "one", "a", 7)
    run.tell(0, who, "job.started")
    run.steps(who, range(30), 0, 1)
    run.tell(30, who, "job.succeeded")
    story = told(run)
    answer = summary(story)
    assert (answer.outcome, answer.ranks, answer.nodes, answer.attempts[0].last_step) == ("succeeded", 1, ["a"], 29)
    assert goodput(story).steps == 30


def test_a_script_without_a_launcher() -> None:
    """A script that marks its steps has a node, also where nothing tells it a rank."""
    run = Run()
    run.steps(Context("run", "one", "a", 7), range(20), 0, 1)
    answer = summary(told(run))
    assert (answer.nodes, answer.ranks, answer.attempts[0].last_step) == (["a"], 1, 19)


@pytest.mark.parametrize("without", ["local_rank", "pid", "rank", "attempt"])
def test_a_launcher_that_says_little(without: str) -> None:
    """A worker is known again by whatever its launcher gives: rank, pid or local rank, each of them enough."""
    run = Run()
    agent = run.agent()
    run.tell(0, agent, "attempt.started", attempt=0, world_size=4)
    for rank in range(4):
        run.tell(0, agent, "worker.started", rank=rank, local_rank=rank, pid=100 + rank, attempt=0)
        run.steps(process(rank, 100 + rank, 800), range(3), 1, 1)
    facts = {"rank": 2, "local_rank": 2, "pid": 102, "attempt": 0, "signal": "SIGKILL"}
    run.tell(5, agent, "worker.failed", **{key: value for key, value in facts.items() if key != without})
    (attempt,) = told(run).attempts
    assert [worker.rank for worker in attempt.workers] == [0, 1, 2, 3]
    assert [worker.outcome for worker in attempt.workers] == ["unknown", "unknown", "failed", "unknown"]


def test_nodes_stand_in_the_order_in_which_they_came() -> None:
    """Names of nodes do not depend on the order of the inputs."""
    run = Run()
    for at, host in enumerate(("c", "a", "b")):
        run.tell(at, run.agent(host), "job.started")
    for records in (run.records, run.records[::-1]):
        (story,) = build(records)
        assert [node.name for node in story.nodes] == ["c", "a", "b"]


@pytest.mark.parametrize("observed", [True, False])
def test_a_rank_that_starts_itself_anew_is_one_process(observed: bool) -> None:
    """A script under an agent that replaces itself by `exec`, or opens a bus after another, is its rank, and no child of it."""
    run = Run()
    agent = run.agent()
    run.start(0, agent, 0, range(1))
    first, second = (Context("run", f"64-2f-{image}", "a", 100, 0, 0, restart=0) for image in range(2))
    run.tell(1, first, "observe.started")
    for image, begin in ((first, 2), (second, 12)):
        if observed:
            for step in range(3):
                run.tell(begin + step + 1, image, "step.observed", step=step, took_ns=10**9)
        else:
            run.steps(image, range(3) if image is first else range(3, 6), begin, 1)
    run.tell(15.5, second, "worker.exception", type="OSError", message="no space")
    run.failed(16, agent, 0, 0, exit_code=1)
    run.tell(16, agent, "attempt.ended", attempt=0, outcome="failed")
    run.tell(16, agent, "job.failed", reason="workers failed")
    story = told(run)
    answer, shares = summary(story), goodput(story)
    (attempt,) = answer.attempts
    assert (answer.children, shares.steps, shares.steps_redone) == (0, *((None, None) if observed else (6, 0)))
    known = {one.name: one.seconds for one in shares.buckets}
    assert (known["productive"], known["unknown"]) == ((3, 3) if observed else (6, 0))
    assert [one.step for one in answer.last_steps] == ([] if observed else [5])
    assert ("began anew in the same process" in attempt.unsure) == observed
    (worker,) = story.workers()
    assert worker.process is not None
    assert (worker.process.context, worker.raised_ns is not None) == (second, True)


@pytest.mark.parametrize("restores", [True, False])
def test_a_program_that_was_stopped_in_time_and_is_run_again(*, restores: bool) -> None:
    """It saved and left with code 0: where the next one goes on, without a word, nobody knows what it did again."""
    run = Run()
    agent = run.agent()
    run.start(0, agent, 0, range(1))
    one, two = process(0, 200, 800), process(0, 210, 950)
    run.steps(one, range(20), 1, 1)
    run.tell(21.1, one, "worker.exit", code=0, message="sys.exit(0)")
    for edge in ("started", "ended") if restores else ():
        run.tell(22, two, f"restore.{edge}", mark_id=7, step=14)
    run.steps(two, range(15, 40), 23, 1)
    run.tell(60, agent, "worker.succeeded", rank=0, local_rank=0, attempt=0)
    run.tell(60, agent, "attempt.ended", attempt=0, outcome="succeeded")
    found = goodput(told(run))
    assert (found.steps, found.steps_redone) == ((40, 5) if restores else (None, None))
