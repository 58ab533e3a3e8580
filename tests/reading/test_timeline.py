"""Rows over time: what the terminal, the picture and the page draw."""

import io
import json
import xml.etree.ElementTree as ET

import msgspec
from rich.console import Console

from elastic_events.reading.builder import build
from elastic_events.reading.rows import RANKS, Timeline, timeline
from elastic_events.reading.timeline_html import timeline_html
from elastic_events.reading.timeline_svg import timeline_svg
from elastic_events.reading.timeline_terminal import nice_step, timeline_terminal
from tests.reading.runs import Run, two_attempts
from tests.streams import load


def answer(run: Run) -> Timeline:
    """The timeline of a run that is one story."""
    (story,) = build(run.records)
    return timeline(story)


def shown(found: Timeline, width: int = 80) -> str:
    """The timeline as a terminal shows it."""
    console = Console(file=io.StringIO(), width=width)
    console.print(timeline_terminal(found, width))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_the_rows() -> None:
    """A row a node with its rendezvous, a row a rank with what it did, and how it ended."""
    node, first, second = answer(two_attempts()).rows
    assert [row.which for row in (node, first, second)] == ["0-1", "0", "1"]
    assert [row.label for row in (node, first, second)] == ["a", "rank 0", "rank 1"]
    assert [(b.start_s, b.end_s, b.state) for b in node.boxes] == [(0, 1, "rendezvous"), (9.5, 11, "rendezvous")]
    assert [(b.start_s, b.end_s, b.state) for b in second.boxes] == [
        (1, 4, "startup"),
        (4, 6.5, "training"),
        (6.5, 9, "lost"),  # step 2 was done again, step 3 cut off
        (11, 14, "startup"),
        (14, 19.5, "training"),
    ]
    assert [(m.at_s, m.kind, m.label) for m in second.marks] == [
        (9, "first", "rank 1: SIGKILL"),
        (19.5, "succeeded", "rank 1: succeeded"),
    ]
    assert [mark.kind for mark in first.marks] == ["victim", "succeeded"]


def test_the_words_of_the_legends_are_the_same() -> None:
    """What a state is called does not hang on where it is drawn."""
    found = answer(two_attempts())
    for drawn in (shown(found, 200), timeline_svg(found), timeline_html(found)):
        for word in ("rendezvous", "start-up", "training", "lost steps"):
            assert word in drawn


def test_attempts_without_a_step() -> None:
    """A worker that never came to a step was starting, in a job that marks steps; in one that marks none it ran."""
    run = two_attempts()
    run.start(30, run.agent(), 2, range(1), restart=2)
    assert answer(run).rows[1].boxes[-1].state == "startup"
    assert {box.state for row in timeline(build(load("run1_ok"))[0]).rows for box in row.boxes} == {
        "rendezvous",
        "running",
    }


def test_a_late_joiner() -> None:
    """The captured stream of two agents shows where the wait was: the late node waits while the first one trains on."""
    records = [*load("run8_scaleup_agentA"), *load("run8_scaleup_agentB")]
    (story,) = build(records)
    early, late = (row for row in timeline(story).rows if row.kind == "node")
    waited = late.boxes[0]
    trained = next(row for row in timeline(story).rows if row.kind == "rank").boxes[0]
    assert trained.start_s < waited.start_s < trained.end_s < waited.end_s
    assert [box.state for box in early.boxes] == ["rendezvous", "rendezvous"]


def test_the_terminal() -> None:
    """Letters read without colour; a failure is not hidden by what is drawn beside it; nothing is wider than asked."""
    text = shown(answer(two_attempts()))
    (line,) = [line for line in text.splitlines() if "rank 1 " in line]
    assert line.count("X") == 1
    assert "s" in line.removeprefix("  rank 1")
    assert "╌" in line
    assert "X first failure" in text
    assert "Attempt 0 failed at 9.0 s, rank 1: SIGKILL." in text
    assert max(map(len, text.splitlines())) <= 80
    assert max(map(len, shown(answer(two_attempts()), 40).splitlines())) <= 40


def long_run(failures: int = 0) -> Run:
    """An hour of steps with a checkpoint of 0.8 s each 100 s, and as many attempts that failed as asked for."""
    run = Run()
    agent = run.agent()
    run.tell(0, agent, "job.started")
    at = 0.0
    for attempt in range(failures + 1):
        run.tell(at, agent, "rendezvous.completed", round=attempt, rank=0, world_size=1, duration_ms=400)
        run.start(at, agent, attempt, range(1), restart=attempt)
        worker = run.worker(0, attempt)
        for number in range(36):
            at = run.steps(worker, range(36 * attempt + number, 36 * attempt + number + 1), at + 2, 97)
            run.tell(at + 0.1, worker, "checkpoint.started", step=number)
            run.tell(at + 0.9, worker, "checkpoint.ended", step=number)
            at += 1
        if attempt < failures:
            run.failed(at, agent, attempt, 0, exit_code=attempt + 1)
            run.tell(at, agent, "attempt.ended", attempt=attempt, outcome="failed")
    run.tell(at, agent, "job.succeeded")
    return run


def test_the_state_that_took_most_of_a_column_wins() -> None:
    """Checkpoints of 0.8 % of the time take no column from the training; what has none is told."""
    text = shown(answer(long_run()))
    (line,) = [line for line in text.splitlines() if "rank 0 " in line]
    assert line.count("━") == 61
    assert text.splitlines()[-3].endswith("1h 00m")  # no label of the axis is cut
    assert "Nowhere the most of a column (59.0 s): start-up, checkpoint." in text


def test_failures_are_all_shown_or_counted() -> None:
    """Of many failures those that are not listed are counted, and of several marks in a column the worst is shown."""
    text = shown(answer(long_run(10)))
    assert text.count(", rank 0: exit code") == 5
    assert "And 5 more attempts; --json has all." in text
    run = Run()
    run.start(0, run.agent(), 0, range(1))
    run.start(0.01, run.agent(), 1, range(1), restart=1)
    run.failed(9, run.agent(), 0, 0, exit_code=1)
    run.failed(9.01, run.agent(), 1, 0, signal="SIGTERM", first=False, victim=True)
    assert "X" in shown(answer(run)).splitlines()[3]


def test_without_unicode() -> None:
    """A terminal that has ASCII alone gets the same picture in ASCII."""
    console = Console(file=io.StringIO(), width=80)
    console.print(timeline_terminal(answer(two_attempts()), 80, ascii_only=True))
    assert console.file.getvalue().isascii()  # type: ignore[attr-defined]


def many(nodes: int, ranks: int) -> Run:
    """A run of many nodes, of which one has the first failure."""
    run = Run()
    for number in range(nodes):
        agent = run.agent(f"node{number:03}")
        own = range(number * ranks, (number + 1) * ranks)
        run.tell(0, agent, "job.started")
        run.tell(1, agent, "attempt.started", attempt=0, world_size=nodes * ranks, round=0)
        for local, rank in enumerate(own):
            run.tell(1, agent, "worker.started", rank=rank, local_rank=local, pid=rank, attempt=0)
        for local, rank in enumerate(own):
            first = rank == own[0] and number == 7
            run.failed(9, agent, 0, rank, local_rank=local, signal="SIGTERM", first=first, victim=not first)
        run.tell(10, agent, "attempt.ended", attempt=0, outcome="failed")
    return run


def test_many_ranks_are_a_row_a_node() -> None:
    """Beyond a screenful of ranks there is a row a node; rows that look alike are one in the terminal and the picture."""
    found = answer(many(100, 8))
    assert [row.kind for row in found.rows] == ["node"] * 100
    assert RANKS < 100 * 8
    text = shown(found)
    assert "node000 +98" in text
    assert "+N behind a name: N more rows look the same." in text
    assert [line.count("X") for line in text.splitlines() if line.startswith("node007")] == [1]
    assert timeline_svg(found).count("node0") < 10


def test_the_picture() -> None:
    """The SVG is well-formed, has every row and the failure's cause, and text that was recorded stays text."""
    root = ET.fromstring(timeline_svg(answer(two_attempts())))
    words = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    for word in ("a", "rank 0", "rank 1", "attempt 0", "attempt 1", "rendezvous", "lost steps", "first failure"):
        assert word in words
    assert "2 attempts; attempt 0 failed at 9.0 s, rank 1: SIGKILL" in words
    bad = Run("<script>alert(1)</script>")
    agent = bad.agent('"><b>')
    bad.tell(1, agent, "rendezvous.completed", round=0, rank=0, world_size=1, duration_ms=900)
    bad.start(1, agent, 0, range(1))
    bad.failed(2, agent, 0, 0, signal="</text>", message="<i>")
    document = timeline_svg(answer(bad))
    assert "<script" not in document
    assert "<b>" not in document
    ET.fromstring(document)


def test_the_cause_is_beside_its_mark() -> None:
    """Where the next attempt follows at once the cause stands over what was before; the legend has every mark."""
    run = two_attempts()
    words = [node.text for node in ET.fromstring(timeline_svg(answer(run))).iter("{http://www.w3.org/2000/svg}text")]
    assert words.count("SIGKILL") == 1
    assert "ended by its agent" in words
    run = Run()
    for attempt in range(2):
        run.start(10 * attempt, run.agent(), attempt, range(1), restart=attempt)
        run.failed(10 * attempt + 10, run.agent(), attempt, 0, exit_code=7)
        run.tell(10 * attempt + 10, run.agent(), "attempt.ended", attempt=attempt, outcome="failed")
    root = ET.fromstring(timeline_svg(answer(run)))
    found = [node for node in root.iter("{http://www.w3.org/2000/svg}text") if node.text == "exit code 7"]
    assert {node.get("text-anchor") for node in found} == {"end"}
    assert [node.get("aria-hidden") for node in found] == ["true", None] * 2  # each with a rim in the ground's colour


def test_how_an_attempt_ended() -> None:
    """An attempt that ended as membership changed says so, in the terminal and in the picture."""
    run = two_attempts()
    run.records = [record for record in run.records if record.name != "worker.failed"]
    for record in run.records:
        if record.name == "attempt.ended" and record.fields[2]["attempt"] == 0:
            record.fields[2]["outcome"] = "membership"
    assert "Attempt 0 ended as nodes came or went at 9.0 s." in shown(answer(run))
    assert "2 attempts; attempt 0 ended as nodes came or went at 9.0 s" in timeline_svg(answer(run))


def test_the_picture_in_the_dark() -> None:
    """Every colour of the picture has one for a dark ground."""
    document = timeline_svg(answer(two_attempts()))
    (style,) = [node.text or "" for node in ET.fromstring(document).iter("{http://www.w3.org/2000/svg}style")]
    assert style.startswith("@media (prefers-color-scheme: dark)")
    for node in ET.fromstring(document).iter():
        names = (node.get("class") or "").split()
        for attribute, ending in (("fill", ""), ("stroke", "-line")):
            if node.get(attribute) not in (None, "none"):
                assert [f".{name} " in style for name in names if name.endswith("-line") == bool(ending)] == [True]


def test_json() -> None:
    """The JSON is the rows."""
    document = json.loads(msgspec.json.encode(answer(two_attempts())))
    assert document["bands"][0] == {
        "attempt": 0,
        "start_s": 1,
        "end_s": 9,
        "outcome": "failed",
        "cause": "rank 1: SIGKILL",
        "failed_s": 9,
    }
    assert len(document["rows"]) == 3


def test_a_script_without_a_rank_is_called_a_process() -> None:
    """What failed and has no rank is called a process, not rank None."""
    run = Run()
    run.steps(run.worker(None), range(4), 0, 1)
    run.tell(5, run.worker(None), "worker.died", pid=100, host="a", signal="SIGKILL")
    found = answer(run)
    assert found.bands[0].cause == "a process: SIGKILL"
    assert [mark.label for row in found.rows for mark in row.marks] == ["a process: SIGKILL"]


def test_no_tag_can_end_the_pages_data() -> None:
    """Whatever was recorded, the page has the two script elements it came with."""
    bad = Run("</script><script>alert(1)</script>")
    bad.start(0, bad.agent("</SCRIPT>"), 0, range(1))
    assert timeline_html(answer(bad)).lower().count("</script>") == 2


def test_a_rank_that_a_node_takes_over_is_the_same_one() -> None:
    """A node that came back is another one: its ranks are not counted twice in the head of the page."""
    run = Run()
    for attempt, ranks in enumerate((range(4), range(2), range(4))):
        for node, host in enumerate("a" if len(ranks) == 2 else "ab"):
            agent = run.agent(host, 10 if host == "a" else 11 + attempt)
            run.start(10 * attempt, agent, attempt, ranks[2 * node : 2 * node + 2], attempt, world_size=len(ranks))
            run.tell(10 * attempt + 8, agent, "attempt.ended", attempt=attempt, outcome="membership")
    assert '"3 nodes, 4 ranks, 3 attempts"' in timeline_html(answer(run))
    for rank in (-1, 0, 1):  # as some launchers count what is no worker
        run.steps(run.worker(rank, 3, "c"), range(3), 40, 1)
    assert '"4 nodes, 5 ranks, 3 attempts"' in timeline_html(answer(run))


def test_round_steps_of_the_axis() -> None:
    """The axis is cut at round numbers of seconds, minutes, hours, days; never into more than asked."""
    assert [nice_step(wall, 8) for wall in (0.004, 7.0, 35, 100, 6600, 90_000)] == [0.0005, 1, 5, 20, 1200, 14400]
    assert all(wall / nice_step(wall, 8) <= 8 for wall in (0.001, 1, 59, 61, 3599, 10**5, 10**8))
