"""The summary shows what was recorded, whatever it holds."""

import io
import json

import msgspec
from rich.console import Console

from elastic_events.reading.builder import build
from elastic_events.reading.summary import final_worker, summary, summary_terminal
from elastic_events.reading.words import seconds, spans
from tests.reading.runs import Run, two_attempts


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
    assert "Last words of rank 1" in text
    assert "step 3" in text
    assert "Ranks 0-1 came to step 5." in text
    assert "No ledger" in text


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
