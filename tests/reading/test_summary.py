"""The summary shows what was recorded, whatever it holds."""

import io
import json

import msgspec
from rich.console import Console

from elastic_events.reading.builder import build
from elastic_events.reading.overview import final_worker, summary
from elastic_events.reading.rows import timeline
from elastic_events.reading.summary_terminal import summary_terminal
from elastic_events.reading.words import error_line, seconds, spans
from tests.reading.runs import START, Run, two_attempts
from tests.records import changed


def shown(run: Run, width: int = 200) -> str:
    """The summary as a terminal shows it."""
    (story,) = build(run.records)
    dead = final_worker(story)
    words = {}
    if dead is not None and dead.process is not None:
        words[dead.process] = [r for r in run.records if r.context.process == dead.process.context.process][-2:]
    console = Console(file=io.StringIO(), width=width)
    console.print(summary_terminal(summary(story, words)))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_the_answer() -> None:
    """Each number of the answer is that of the run, in the unit of its name."""
    (story,) = build(two_attempts().records)
    answer = summary(story)
    first, second = answer.attempts
    assert (first.start_s, first.duration_s, first.rendezvous_s, first.first_step_s) == (1, 8, 1, 3)
    assert (second.start_s, second.duration_s, second.rendezvous_s, second.first_step_s) == (11, 8.5, 1.5, 3)
    assert (first.restart_to_step_s, second.restart_to_step_s) == (None, 5)
    assert (first.first_step, first.last_step, second.first_step, second.last_step) == (0, 2, 2, 5)
    assert first.first_failure is not None
    assert (first.first_failure.rank, first.first_failure.signal, first.first_failure.at_s) == (1, "SIGKILL", 9)
    assert (first.failed, first.victims) == (1, 1)
    assert [(last.step, last.ranks) for last in answer.last_steps] == [(5, [0, 1])]
    assert json.loads(msgspec.json.encode(answer))["attempts"][1]["restart_to_step_s"] == 5


def test_the_screen() -> None:
    """The screen names the outcome, who died first of what, its victims, its last words, and how far each rank came."""
    text = shown(two_attempts())
    assert "Run run: succeeded after 20.0 s" in text
    assert "1 node, 2 ranks, 2 attempts, 1 restart after a failure." in text
    assert "rank 1 on a: SIGKILL, 1 victim" in text
    assert "Last words of rank 1 in attempt 0" in text
    assert "step 3" in text
    assert "Ranks 0-1 came to step 5." in text
    assert "No ledger" in text


def test_what_was_lost_before_it_was_collected() -> None:
    """What a ring overwrote is told once, though a collector that was started again told it again; no sink says "none lost"."""
    run = two_attempts()
    for process, reason, total in (
        ("p", "overwritten", 10),
        ("p", "overwritten", 30),
        ("p", "overwritten", 30),
        ("q", "interrupted", 1),
    ):
        facts = {"process": process, "reason": reason, "total": total, "count": total}
        run.tell(20, run.agent("a", 99), "recorder.lost", **facts)
    (story,) = build(run.records)
    assert summary(story).lost == {"overwritten": 30, "interrupted": 1}
    text = shown(run)
    assert "Lost in their processes, before they were collected: 30 overwritten, 1 interrupted." in text
    assert "none lost" not in text


def test_what_a_sink_lost_has_its_reasons() -> None:
    """The line of a sink that lost records says how many failed of what, and were dropped why, and its last error."""
    run = two_attempts()
    facts = {"lane": "db", "accepted": 9, "delivered": 2, "dropped": {"overwritten": 3}, "failed": 4}
    facts |= {"failed_by": {"OSError": 3, "PermanentError": 1}, "last_error": "OSError: disk full"}
    run.records.append(changed(run.records[-1], kind="ledger", name="bus.ledger", fields=(facts,)))
    line = (
        "Records through db: 9 accepted, 2 delivered, 3 dropped (overwritten), 4 failed (3 OSError, 1 PermanentError)."
    )
    assert f"{line} Its last error: OSError: disk full." in shown(run)


def test_what_a_later_record_replaced_is_no_loss() -> None:
    """A sink that wanted the latest of each key lost nothing, and its line says how many were replaced."""
    run = two_attempts()
    facts = {"lane": "board", "accepted": 9, "delivered": 2, "dropped": {"coalesced": 7}, "failed": 0}
    run.records.append(changed(run.records[-1], kind="ledger", name="bus.ledger", fields=(facts,)))
    line = "Records through board: 9 accepted, 2 delivered, 7 replaced by a later one of their key, none lost."
    assert line in " ".join(shown(run).split())


def test_eighty_columns() -> None:
    """On a terminal of 80 columns nothing is cut off."""
    text = shown(two_attempts(), width=80)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_markup_stays_text() -> None:
    """Square brackets in what was recorded are printed as they are; none is taken for rich's markup."""
    run = Run("[/run]")
    agent = run.agent("[bold]")
    run.start(0, agent, 0, range(1))
    run.failed(1, agent, 0, 0, signal="[/b]", message="[red]gone")
    run.tell(2, agent, "attempt.ended", attempt=0, outcome="[red]failed")
    run.tell(2, agent, "job.failed", reason="[/reason]")
    text = shown(run)
    for part in ("[/run]", "[bold]", "[/b]", "[red]gone", "[/reason]"):
        assert part in text


def test_many_attempts_and_ranks_fit() -> None:
    """Of a hundred attempts the first and last are shown, and ranks are told by ranges."""
    run = Run()
    agent = run.agent()
    for attempt in range(100):
        run.start(attempt * 10, agent, attempt, range(3), restart=attempt)
        run.tell(attempt * 10 + 5, agent, "attempt.ended", attempt=attempt, outcome="failed")
    text = shown(run)
    assert "70 more" in text
    assert len(text.splitlines()) < 50


def test_a_node_that_waited() -> None:
    """A node that was far longer in a rendezvous than the others is named."""
    run = Run()
    for number, wait in enumerate((100, 120, 90_000)):
        agent = run.agent(f"node{number}")
        run.tell(100, agent, "rendezvous.completed", round=0, world_size=3, rank=number, node="x", duration_ms=wait)
        run.start(100, agent, 0, range(1), round=0)
    assert "Node node2 was 90.0 s in the rendezvous of attempt 0." in shown(run)


def test_ranges_and_durations() -> None:
    """Numbers read as ranges, durations in the unit that suits them."""
    assert spans([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
    assert spans(list(range(0, 40, 2))) == "0, 2, 4, 6, 8, 10 and 14 more"
    assert [seconds(value) for value in (None, 0, 0.0019, 0.25, 12.34, 125, 7300)] == [
        *("", "0 s", "1.9 ms", "250 ms", "12.3 s"),
        *("2m 05s", "2h 02m"),
    ]


def test_one_line_of_an_error() -> None:
    """An error is told by one line, the same everywhere: of a traceback the exception, else the first; never a long one."""
    trace = 'Traceback (most recent call last):\n  File "x", line 1\n    f()\nRuntimeError: CUDA error\n  hint one\nhint two\n'
    assert error_line(trace) == "RuntimeError: CUDA error"
    assert error_line("ValueError: bad\nand more\n") == "ValueError: bad"
    assert len(error_line("x" * 3000)) <= 160
    run = two_attempts()
    run.failed(9.0, run.agent(), 0, 1, signal="SIGKILL", message=trace)
    assert "Attempt 0 failed with: RuntimeError: CUDA error" in shown(run)
    (story,) = build(run.records)
    (mark,) = [mark for row in timeline(story).rows for mark in row.marks if mark.kind == "first"]
    assert mark.label == "rank 1: SIGKILL: RuntimeError: CUDA error"


def test_without_an_agent_who_exited_may_have_been_first() -> None:
    """A launcher that tells nothing kills the others of who exited: who was seen to be killed is not told first."""
    run = Run()
    for rank, last in enumerate((12.5, 12, 12.4)):
        run.steps(run.worker(rank), range(4), last - 4, 1)
    for rank in (0, 2):
        run.tell(13, run.worker(rank), "worker.died", rank=rank, pid=100 + rank, host="a")
    (story,) = build(run.records)
    (row,) = summary(story).attempts
    assert (row.first_failure, [one.rank for one in row.suspects]) == (None, [0, 2, 1])
    assert "or one that is not recorded" in " ".join(shown(run).split())


def test_what_a_failure_cost() -> None:
    """A failure costs the time to the next step, over attempts that failed in between, and the steps done again."""
    run = two_attempts()
    (cost,) = summary(build(run.records)[0]).costs
    assert (cost.attempt, cost.at_s, cost.down_s, cost.redone_s, cost.total_s) == (0, 9, 5, 1.25, 6.25)
    assert "The failure of attempt 0 cost 6.2 s: 5.0 s to the next step, and 1.2 s to do lost steps again." in shown(
        run
    )
    run = Run()
    agent = run.agent()
    for attempt, begin in enumerate((0, 20, 40)):
        run.start(begin, agent, attempt, range(2), restart=attempt)
        if attempt != 1:
            run.steps(run.worker(0, attempt), range(4), begin + 1, 1)
        if attempt != 2:
            run.failed(begin + 10, agent, attempt, 1, signal="SIGKILL")
            run.tell(begin + 10, agent, "attempt.ended", attempt=attempt, outcome="failed")
    answer = summary(build(run.records)[0])
    assert [(cost.attempt, cost.between, cost.down_s, cost.redone_s) for cost in answer.costs] == [(0, [1], 31, 4)]
    assert [(one.rank, one.attempts) for one in answer.repeated] == [(1, [0, 1])]
    text = shown(run)
    assert "over attempt 1 in between" in text
    assert "Rank 1 failed first in 2 attempts: 0-1." in text


def test_an_end_that_was_not_recorded() -> None:
    """Without an end the summary says so, and where the rest may lie; with a node's records missing, that these are."""
    run = two_attempts()
    run.records = run.records[:-1]
    assert "No agent said the end of the job" in shown(run)
    assert "recorder directory" in shown(run)
    run = two_attempts()
    run.tell(11, run.agent(), "attempt.started", attempt=2, round=2, group_world_size=3)
    assert "outcome unknown" in shown(run)
    assert "No record of 2 nodes of the last attempt was read" in shown(run)
    assert "--rdzv-id" in shown(run)  # they may have been read, as another run
    run = Run()
    run.tell(1, run.agent(), "worker.failed", rank=3, signal="SIGKILL")
    assert "No record of 1 node, or of some ranks, of the last attempt was read" in shown(run)


def test_a_signal_without_a_name() -> None:
    """A real-time signal has one name, whoever wrote it."""
    run = Run()
    run.start(0, run.agent(), 0, range(1))
    run.failed(1, run.agent(), 0, 0, signal="signal 40")
    assert "SIG40" in shown(run)


def test_a_run_of_metrics_alone() -> None:
    """Where there is no attempt, no empty table is drawn, and it is said what shows the records."""
    run = Run()
    run.metric(0, run.worker(None, pid=7), "loss", 1.0)
    told = shown(run)
    assert "first to" not in told
    assert "elastic-events tail shows the records themselves" in told


def test_an_agent_that_was_started_again_is_no_node_more() -> None:
    """A job that failed and came back on its host had one node all the time."""
    run = Run()
    for at, pid in ((0, 10), (100, 20)):
        agent = run.agent(pid=pid)
        run.tell(at, agent, "job.started")
        run.start(at + 1, agent, 0, range(1), restart=pid, group_world_size=1)
        run.tell(at + 6, agent, "attempt.ended", attempt=0, outcome="failed")
        run.tell(at + 6, agent, "job.failed", reason="workers failed")
    assert "1 node, 2 agents one after another, 1 rank, 2 attempts" in shown(run)


def test_agents_that_lost_sight_of_each_other_are_not_told_one_after_another() -> None:
    """An agent that torch takes for gone goes on beside the one that came: neither waited for an end, no time is told for it."""
    run = Run()
    for at, pid in ((0, 10), (20, 20)):
        agent = run.agent(pid=pid)
        run.tell(at, agent, "job.started")
        run.start(at + 1, agent, 0, range(1), restart=pid, round=pid, group_world_size=1)
        run.steps(run.worker(0, restart=pid), range(10), at + 2, 1)
    for pid in (10, 20):
        run.tell(40, run.agent(pid=pid), "attempt.ended", attempt=0, outcome="succeeded")
        run.tell(40, run.agent(pid=pid), "job.succeeded", attempts=1)
    told = shown(run)
    assert "1 node, 2 agents, 1 rank, 2 attempts" in told
    assert "From the end of an attempt" not in told


def test_agents_of_one_host_at_once_are_not_told_one_after_another() -> None:
    """Two agents of a host with a rank each run beside each other: their one attempt has both."""
    run = Run()
    for rank in range(2):
        agent = run.agent(pid=10 * (rank + 1))
        run.tell(0, agent, "job.started")
        run.start(1, agent, 0, range(rank, rank + 1), group_world_size=1)
        run.tell(6, agent, "attempt.ended", attempt=0, outcome="succeeded")
        run.tell(6, agent, "job.succeeded")
    assert "1 node, 2 agents, " in shown(run)


def test_a_rank_that_begins_again_is_said_to_have_finished_nothing_of_its_last_attempt() -> None:
    """While a restart is watched, who came to step 2 before is not said to have finished no step."""
    run = two_attempts()
    until = {run.worker(1, 1): 14, run.worker(0, 1): 16}
    run.records = [r for r in run.records if r.time_ns <= START + until.get(r.context, 14) * 10**9]
    assert "Rank 1 finished no step in its last attempt." in shown(run)


def test_what_comes_behind_the_steps_that_were_done_again_is_no_part_of_what_these_cost() -> None:
    """A checkpoint or an evaluation before the first new step would have been all the same."""
    run = Run()
    agent = run.agent()
    for attempt, begin in enumerate((0, 20)):
        run.start(begin, agent, attempt, range(1), restart=attempt)
        worker = run.worker(0, attempt)
        saves = run.steps(worker, range(4), begin + 1, 1)
        for edge in ("started", "ended")[: 1 + attempt]:
            run.tell(saves + 8 * (edge == "ended"), worker, f"checkpoint.{edge}", step=3)
        if attempt:
            run.steps(worker, range(4, 8), saves + 8, 1)
        else:
            run.failed(begin + 10, agent, attempt, 0, signal="SIGKILL")
            run.tell(begin + 10, agent, "attempt.ended", attempt=attempt, outcome="failed")
    (cost,) = summary(build(run.records)[0]).costs
    assert (cost.down_s, cost.redone_s) == (11, 4)


def test_what_doing_steps_again_cost_is_not_guessed() -> None:
    """Where it is not known which steps a later attempt did again, it is not known what that cost; epochs are no such case."""
    run = Run()
    agent = run.agent()
    for attempt, begin in enumerate((0, 20)):
        run.start(begin, agent, attempt, range(1), restart=attempt)
        worker = run.worker(0, attempt)
        if attempt:
            for edge in ("started", "ended"):  # nobody was seen to save it
                run.tell(begin + 1, worker, f"restore.{edge}", path="model.pt", observed=True, mark_id=0)
        for step in range(5):
            run.tell(begin + 3 + step, worker, "step.observed", step=step, took_ns=10**9, data_ns=1)
        run.failed(begin + 10, agent, attempt, 0, signal="SIGKILL")
        run.tell(begin + 10, agent, "attempt.ended", attempt=attempt, outcome="failed")
    (cost,) = summary(build(run.records)[0]).costs
    assert (cost.down_s, cost.redone_s, cost.total_s) == (12, None, None)

    run = Run()
    for attempt, epochs in enumerate(((0, 1, 2), (1,), (2,))):
        begin = 20 * attempt
        run.start(begin, agent, attempt, range(1), restart=attempt)
        for at, epoch in enumerate(epochs):
            for step in range(3):
                for edge in ("started", "ended"):
                    when = begin + 1 + 3 * at + step + 0.5 * (edge == "ended")
                    run.tell(when, run.worker(0, attempt), f"step.{edge}", step=step, epoch=epoch)
        run.failed(begin + 10, agent, attempt, 0, signal="SIGKILL")
        run.tell(begin + 10, agent, "attempt.ended", attempt=attempt, outcome="failed")
    assert [(cost.attempt, cost.redone_s) for cost in summary(build(run.records)[0]).costs] == [(0, 22.5), (1, 0)]


def test_a_failure_after_which_nothing_was_done_again_cost_no_steps() -> None:
    """Where each step of the next attempt is a new one, no time went into lost steps, though its ranks begin not at once."""
    run = Run()
    agent = run.agent()
    run.start(0, agent, 0, range(2))
    for rank in range(2):
        run.steps(run.worker(rank), range(4), 1, 1)
    run.failed(6, agent, 0, 1, signal="SIGKILL")
    run.tell(6, agent, "attempt.ended", attempt=0, outcome="failed")
    run.start(8, agent, 1, range(2), restart=1)
    for rank, begin in enumerate((10.01, 10)):
        run.steps(run.worker(rank, 1), range(4, 8), begin, 1)
    (story,) = build(run.records)
    (cost,) = summary(story).costs
    assert (cost.down_s, cost.redone_s) == (4, 0)
    assert "lost steps" not in shown(run)


def test_an_agent_that_died_before_it_recorded() -> None:
    """Only the collector tells of it: how many nodes and ranks there were, nobody said."""
    run = Run()
    run.tell(1, run.agent(), "agent.died", pid=10, host="a", signal="SIGKILL")
    assert "No attempt was recorded" in shown(run)
    assert "0 nodes" not in shown(run)
