"""From records to stories: whatever the order, the hosts' clocks, the pids, and however little was recorded."""

import random

import pytest
from msgspec.structs import replace

from elastic_events.bus.context import Context
from elastic_events.bus.record import Record
from elastic_events.reading.answers import as_json, pick
from elastic_events.reading.buckets import goodput
from elastic_events.reading.builder import build
from elastic_events.reading.overview import summary
from elastic_events.reading.perfetto import trace_events
from elastic_events.reading.story import Story
from tests.reading.runs import START, Run, two_attempts


def seconds(story: Story, time_ns: int | None) -> float | None:
    """Seconds from the story's beginning."""
    return None if time_ns is None else round((time_ns - story.began_ns) / 1e9, 6)


def test_a_run_of_two_attempts() -> None:
    """Attempts, their times, the first failure and its victim, and the steps of each rank are what was recorded."""
    (story,) = build(two_attempts().records)
    assert (story.run_id, story.outcome, story.wall_s, story.restarts) == ("run", "succeeded", 20.0, 1)
    first, second = story.attempts
    assert [(seconds(story, a.started_ns), seconds(story, a.ended_ns)) for a in story.attempts] == [(1, 9), (11, 19.5)]
    assert [a.outcome for a in story.attempts] == ["failed", "succeeded"]
    assert first.first_failure is not None
    assert (first.first_failure.rank, first.first_failure.cause) == (1, "SIGKILL")
    assert [(w.rank, w.victim) for w in first.workers] == [(0, True), (1, False)]
    assert (first.last_step, second.last_step) == (2, 5)
    assert seconds(story, second.first_step_ns) == 14
    assert [(seconds(story, r.start_ns), seconds(story, r.end_ns)) for r in second.rendezvous] == [(9.5, 11)]
    process = first.workers[1].process
    assert process is not None
    assert list(process.steps) == [0, 1, 2, 3]
    assert process.ends[-1] == 0


def test_processes_may_come_in_any_order() -> None:
    """The files of the nodes can be given, and their records mixed, in any order that keeps each process's own."""
    run = two_attempts()
    by_process: dict[str, list[Record]] = {}
    for record in run.records:
        by_process.setdefault(record.context.process, []).append(record)
    (expected,) = build(run.records)
    for seed in range(20):
        queues = list(by_process.values())
        random.Random(seed).shuffle(queues)
        (story,) = build(record for queue in queues for record in queue)
        assert [a.workers[1].cause for a in story.attempts] == [a.workers[1].cause for a in expected.attempts]
        assert [a.last_step for a in story.attempts] == [2, 5]
        assert story.wall_s == 20.0


def test_records_of_a_process_may_come_in_any_order() -> None:
    """A stream that was shuffled tells what it told in order, also of a host whose clock was set in the middle."""
    run = two_attempts()
    agent = run.agent()
    for at, record in enumerate(run.records):
        if record.context == agent and record.time_ns >= START + 9 * 10**9:
            run.records[at] = replace(record, time_ns=record.time_ns + 2 * 10**9)
    expected = [as_json(summary(story)) for story in build(run.records)]
    for seed in range(20):
        shuffled = random.Random(seed).sample(run.records, len(run.records))
        assert [as_json(summary(story)) for story in build(shuffled)] == expected


def test_an_attempt_whose_start_was_lost_is_not_the_one_that_another_node_joins() -> None:
    """Its first agent told its rendezvous' round: who gathers in the next round begins another attempt."""
    run = Run()
    early, late = run.agent("a"), run.agent("b", 20)
    run.tell(0, early, "job.started")
    run.tell(1, early, "rendezvous.completed", round=0, world_size=1, rank=0)
    run.tell(1, early, "worker.started", rank=0, local_rank=0, pid=101, attempt=0)
    run.failed(3, early, 0, 0, pid=101, signal="SIGKILL")
    run.tell(4, late, "job.started")
    for agent in (late, early):
        run.tell(6, agent, "rendezvous.completed", round=1, world_size=2)
    for agent, own, rank in ((late, 0, 1), (early, 1, 0)):
        run.tell(6, agent, "attempt.started", attempt=own, round=1, world_size=2, group_world_size=2)
        run.tell(6, agent, "worker.started", rank=rank, local_rank=0, pid=102 + rank, attempt=own)
    (story,) = build(run.records)
    assert [{worker.pid for worker in attempt.workers} for attempt in story.attempts] == [{101}, {102, 103}]


def test_a_node_whose_attempt_has_no_round_is_part_of_that_of_its_rendezvous() -> None:
    """The round of the rendezvous before it stands for that of the attempt: two of two nodes each are not one."""
    run = Run()
    first, stays, late = run.agent("a"), run.agent("b"), run.agent("c")
    for agent in (first, stays):
        run.tell(0, agent, "job.started")
        run.tell(1, agent, "rendezvous.completed", round=0, world_size=2)
    for rank, agent in enumerate((first, stays)):
        run.tell(1, agent, "attempt.started", attempt=0, round=0, world_size=2, group_world_size=2)
        run.tell(1, agent, "worker.started", rank=rank, pid=101 + rank, attempt=0)
    run.tell(5, stays, "attempt.ended", attempt=0, outcome="failed")
    run.tell(5, late, "job.started")
    for agent in (late, stays):
        run.tell(7, agent, "rendezvous.completed", round=1, world_size=2)
    run.tell(7, late, "attempt.started", attempt=0, world_size=2, group_world_size=2)
    run.tell(7, late, "worker.started", rank=1, pid=103, attempt=0)
    run.tell(7, stays, "attempt.started", attempt=1, round=1, world_size=2, group_world_size=2)
    run.tell(7, stays, "worker.started", rank=0, pid=104, attempt=1)
    (story,) = build(run.records)
    assert [{worker.pid for worker in attempt.workers} for attempt in story.attempts] == [{101, 102}, {103, 104}]


def test_of_an_attempt_without_its_start_only_what_starts_then_is_a_part() -> None:
    """Nothing is left of its rendezvous and its start: who starts seconds later, in a round, begins another one."""
    run = Run()
    early, late = run.agent("a"), run.agent("b", 20)
    run.tell(0, early, "job.started")
    run.tell(1, early, "worker.started", rank=0, pid=101, attempt=0)
    run.tell(6, late, "job.started")
    for agent, own, rank in ((late, 0, 1), (early, 1, 0)):
        run.tell(9, agent, "rendezvous.completed", round=1, world_size=2)
        run.tell(9, agent, "attempt.started", attempt=own, round=1, world_size=2, group_world_size=2)
        run.tell(9, agent, "worker.started", rank=rank, pid=102 + rank, attempt=own)
    (story,) = build(run.records)
    assert [{worker.pid for worker in attempt.workers} for attempt in story.attempts] == [{101}, {102, 103}]


def test_nodes_are_one_job_by_their_round() -> None:
    """A late joiner's attempt 0 is the others' attempt 1: attempts of several agents are joined by rendezvous round."""
    run = Run()
    early, late = run.agent("a"), run.agent("b", 20)
    run.start(1, early, 0, range(2), round=0)
    run.tell(5, early, "attempt.ended", attempt=0, outcome="membership")
    run.start(7, early, 1, range(2), round=1)
    run.tell(7.2, late, "rendezvous.completed", round=1, world_size=2, rank=1, node="b", duration_ms=4000)
    run.start(7.2, late, 0, range(2, 4), round=1)
    (story,) = build(run.records)
    assert [(a.round, [w.rank for w in a.workers], len(a.nodes)) for a in story.attempts] == [
        (0, [0, 1], 1),
        (1, [0, 1, 2, 3], 2),
    ]
    assert story.attempts[0].outcome == "membership"


def test_a_job_that_begins_anew_counts_its_rounds_again() -> None:
    """Round 0 of an agent that came after the first round 0 had ended is another attempt, as after a requeue."""
    run = Run()
    for begin, pid in ((0, 10), (100, 11)):
        agent = run.agent("a", pid)
        run.start(begin + 1, agent, 0, range(1), round=0)
        run.tell(begin + 9, agent, "attempt.ended", attempt=0, outcome="failed")
        run.tell(begin + 9, agent, "job.failed", reason="workers failed")
    (story,) = build(run.records)
    assert [seconds(story, a.started_ns) for a in story.attempts] == [0, 100]


def test_jobs_without_an_id_are_parted_by_time() -> None:
    """Two jobs that nobody gave an id, one after the other into one file, are two runs."""
    run = Run("none")
    for begin, pid in ((0, 10), (100, 11)):
        agent = run.agent("a", pid)
        run.tell(begin, agent, "job.started")
        run.start(begin + 1, agent, 0, range(1), round=0)
        run.tell(begin + 9, agent, "job.succeeded")
    assert [story.wall_s for story in build(run.records)] == [9.0, 9.0]


def test_the_same_id_again() -> None:
    """A job that had succeeded is over: another of its id is another run. One that had failed goes on, from a queue."""
    for outcome, runs in (("succeeded", 2), ("failed", 1)):
        run = Run()
        for at, pid in ((0, 10), (100, 20)):
            agent = run.agent(pid=pid)
            run.tell(at, agent, "job.started")
            run.start(at + 1, agent, 0, range(1), restart=pid)
            run.steps(run.worker(0, pid), range(3), at + 2, 1)
            ended = outcome if pid == 10 else "succeeded"
            run.tell(at + 6, agent, "attempt.ended", attempt=0, outcome=ended)
            run.tell(at + 6, agent, f"job.{ended}")
        assert [story.run_id for story in build(run.records)] == ["run"] * runs
        assert sum(goodput(story).steps_redone for story in build(run.records)) == (0 if runs == 2 else 3)


def test_a_job_within_a_job_is_shown_by_its_id_only() -> None:
    """What a rank of a job starts is another run, and the job is what somebody asks about."""
    stories = []
    for at, run_id in ((0, "job"), (5, "job/evaluation")):
        run = Run(run_id)
        run.tell(at, run.agent(pid=10 + at), "job.started")
        stories += build(run.records)
    assert [pick(stories, run).run_id for run in (None, "job/evaluation")] == ["job", "job/evaluation"]


def test_scripts_without_an_id_are_runs_of_their_own() -> None:
    """A script without launcher and rank that ran twice is two runs; two buses of one program, and what overlaps, are one."""
    for later, runs in (((100, "65-2-x"), 2), ((100, "64-1-y"), 1), ((3, "65-2-x"), 1)):
        run = Run("none")
        for begin, process in ((0, "64-1-x"), later):
            who = Context("none", process, "a", int(process[:2], 16))
            run.steps(who, range(5), begin, 1)
            run.tell(begin + 6, who, "worker.died", pid=who.pid, host="a", signal="SIGKILL")
        assert [len(story.processes) for story in build(run.records)] == [2 // runs] * runs


def test_a_launcher_that_knows_no_id_has_torchs() -> None:
    """The run of a bus in a launcher, which was given no id, has the one that torch's own events name."""
    run = Run("none")
    agent = run.agent()
    run.tell(0, agent, "job.started")
    run.tell(1, agent, "torchelastic.worker.status.RENDEZVOUS", run_id="mine")
    run.start(2, agent, 0, range(1))
    (story,) = build(run.records)
    assert story.run_id == "mine"


def test_a_pid_that_is_used_again() -> None:
    """A worker of a later attempt with the pid of an earlier one gets its own records."""
    run = Run()
    agent = run.agent()
    for attempt in range(2):
        run.start(10 * attempt, agent, attempt, range(1), restart=0)
        who = run.worker(0, attempt, pid=100)
        run.steps(type(who)(*("run", f"life-{attempt}", "a", 100, 0, 0)), range(5), 10 * attempt + 1, 1)
        run.tell(10 * attempt + 8, agent, "attempt.ended", attempt=attempt, outcome="failed")
    (story,) = build(run.records)
    processes = [a.workers[0].process for a in story.attempts]
    assert [p.context.process for p in processes if p is not None] == ["life-0", "life-1"]


def test_workers_alone() -> None:
    """A directory of recorders has no agent: attempts come from the workers' own restart counts."""
    run = Run()
    for restart in range(2):
        for rank in range(3):
            run.steps(run.worker(rank, restart), range(4), 10 * restart, 1)
    (story,) = build(run.records)
    assert [[w.rank for w in a.workers] for a in story.attempts] == [[0, 1, 2], [0, 1, 2]]
    assert [a.last_step for a in story.attempts] == [3, 3]
    assert story.outcome == "unknown"


def test_a_clock_that_is_wrong() -> None:
    """A host whose clock is beyond the error of its estimate is set right, in facts and steps; one within it is not."""
    run = Run()
    agents = {"a": run.agent("a"), "b": run.agent("b"), "c": run.agent("c")}
    ahead = {"a": 0.0, "b": 60.0, "c": 0.4}
    for number in range(3):
        for host, agent in agents.items():
            at = 10 * number + ahead[host]
            run.tell(at, agent, "rendezvous.completed", round=number, world_size=3, rank=0, node=host, duration_ms=100)
            run.start(at, agent, number, range(1), round=number)
    run.steps(run.worker(7, host="b", pid=777), range(2), 62, 1)
    (story,) = build(run.records)
    assert {host: (o.seconds, o.applied) for host, o in story.offsets.items()} == {"b": (60, True), "c": (0.4, False)}
    assert len(story.attempts) == 3
    process = next(p for p in story.processes if p.context.pid == 777)
    assert seconds(story, process.starts[0]) == pytest.approx(2.1)
    assert seconds(story, process.ends[-1]) == pytest.approx(4.1)


def test_a_collector_adds_what_no_agent_said() -> None:
    """`worker.died`, from the collector, tells the cause of an end of which the agent left no word; it overrules none."""
    run = Run()
    agent, collector = run.agent(), run.agent("c", 99)
    run.start(0, agent, 0, range(3))
    run.failed(5, agent, 0, 1, signal="SIGSEGV")
    for rank, signal in enumerate(("SIGKILL", "SIGKILL", None)):
        run.tell(6, collector, "worker.died", rank=rank, pid=100 + rank, host="a", signal=signal)
    (story,) = build(run.records)
    assert [w.cause for w in story.attempts[0].workers] == ["SIGKILL", "SIGSEGV", ""]
    assert [w.outcome for w in story.attempts[0].workers] == ["failed", "failed", "unknown"]
    assert [node.name for node in story.nodes] == ["a"]


def test_workers_that_only_a_collector_saw() -> None:
    """Without an agent, a worker that died is a failure, whether or not it is known of what."""
    run = Run()
    collector = run.agent("c", 99)
    run.steps(run.worker(0), range(4), 0, 1)
    run.steps(run.worker(1), range(4), 0, 1)
    run.tell(6, collector, "worker.died", rank=1, pid=101, host="a")
    (story,) = build(run.records)
    assert [w.outcome for w in story.attempts[0].workers] == ["unknown", "failed"]
    assert (
        story.attempts[0].first_failure is None
    )  # rank 0 may have ended before, with an exit code that no collector sees
    assert [worker.rank for worker in story.attempts[0].suspects] == [1, 0]
    run.steps(run.worker(0), range(4, 8), 4, 1)
    (story,) = build(run.records)
    assert story.attempts[0].first_failure is story.attempts[0].workers[1]


def test_values_of_any_type() -> None:
    """Metadata that is no dict, a step that is no number, numbers beyond 64 bits: passed over, whatever else there is."""
    run = two_attempts()
    agent, worker = run.agent(), run.worker(0, 1)
    for junk in (None, [1], "text", {"attempt": [1], "step": "one", "round": {}, "duration_ms": "x"}, {"step": 2**70}):
        for name in ("attempt.started", "worker.failed", "rendezvous.completed", "torchelastic.worker.status.START"):
            run.raw(30, agent, name, junk)
        for name in ("step.started", "step.ended", "checkpoint.started", "restore.ended"):
            run.raw(30, worker, name, junk)
    (story,) = build(run.records)
    assert story.attempts[0].first_failure is not None
    assert story.attempts[1].last_step == 5


def test_a_foreign_stream_in_torchs_name() -> None:
    """What bears torch's names but is not torch's is counted as not understood, and nothing is raised."""
    run = Run()
    agent = run.agent()
    run.raw(0, agent, "torchelastic.worker.status.START", {"metadata": '{"local_rank": [[1], [2]]}'})
    run.raw(1, agent, "torchelastic.worker.status.SUCCEEDED", {"agent_restarts": "many"})
    stories = build(run.records)
    assert [story.nodes[0].unparsed for story in stories if story.nodes] in ([1], [2], [])


def test_checkpoints_that_block() -> None:
    """A checkpoint beside a running step is not blocking; one between steps is."""
    run = Run()
    worker = run.worker(0)
    run.tell(0, worker, "checkpoint.started", step=0)
    run.tell(1, worker, "checkpoint.ended", step=0)
    run.tell(2, worker, "step.started", step=1)
    run.tell(3, worker, "checkpoint.started", step=0)
    run.tell(4, worker, "checkpoint.ended", step=0)
    run.tell(5, worker, "step.ended", step=1)
    run.tell(6, worker, "checkpoint.started", step=1)
    run.tell(7, worker, "step.started", step=2)
    (story,) = build(run.records)
    assert [span.blocking for span in story.processes[0].spans] == [True, False, False]
    assert story.began_ns == START


def test_a_job_goes_on_with_the_nodes_that_did_not_leave() -> None:
    """While a job runs on after a node has left, its wall time and its attempts reach to its last record."""
    run = Run()
    for host, ranks in (("a", range(2)), ("b", range(2, 4))):
        agent = run.agent(host)
        run.tell(0, agent, "job.started")
        run.start(1, agent, 0, ranks, round=0, world_size=4)
        run.tell(60, agent, "attempt.ended", attempt=0, outcome="membership")
    run.tell(60, run.agent("b"), "agent.left")
    run.start(65, run.agent("a"), 1, range(2), restart=1, round=1)
    for rank in range(2):
        run.steps(run.worker(rank, 1), range(50, 280), 65, 1)
    (story,) = build(run.records)
    assert (story.outcome, story.wall_s) == ("unknown", 295)
    assert [(span[0] - story.began_ns, span[1] - story.began_ns) for span in map(story.span, story.attempts)] == [
        (1e9, 60e9),
        (65e9, 295e9),
    ]
    steps = [event for event in trace_events(story) if event["name"] == "step"]
    assert len(steps) == 460
    assert max(event["ts"] + event["dur"] for event in steps) == 295e6
