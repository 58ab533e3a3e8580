"""Runs without an id in one file: each has its own ledgers and losses; what may be of either is said to be."""

import io
from typing import Any

import pytest
from rich.console import Console

from elastic_events.bus.context import Context
from elastic_events.reading.builder import build
from elastic_events.reading.overview import summary
from elastic_events.reading.said import NAMELESS
from elastic_events.reading.story import Story
from elastic_events.reading.summary_terminal import summary_terminal
from tests.reading.runs import START, Run
from tests.records import changed


class Scripts(Run):
    """Scripts without an id, one after the other, on one host. A process is named by its pid and the tick it started at."""

    def __init__(self) -> None:
        super().__init__(NAMELESS)

    def process(self, pid: int, started: int, role: str | None = None, host: str = "a") -> Context:
        """Return the context of a process that started at a tick."""
        return Context(NAMELESS, f"{pid:x}-{started:x}-00", host, pid, role=role)

    def script(self, at: float, who: Context) -> None:
        """Record two steps, of a second each."""
        self.steps(who, range(2), at, 1)

    def closed(self, at: float, who: Context, accepted: int) -> None:
        """Record a ledger."""
        facts = {"lane": "sqlite", "accepted": accepted, "delivered": accepted, "dropped": {}}
        self.tell(at, who, "x")
        self.records[-1] = changed(self.records[-1], kind="ledger", name="bus.ledger", fields=(facts,))

    def told(self) -> list[Story]:
        """Return the stories, in either order of the records the same."""
        forth, back = build(self.records), build(sorted(self.records, key=lambda record: -record.time_ns))
        assert [story.ledgers for story in forth] == [story.ledgers for story in back]
        return forth


def accepted(stories: list[Story]) -> list[list[tuple[Any, Any]]]:
    """Return what the ledgers of each run accepted, and of how many runs each is."""
    return [[(facts["accepted"], facts.get("runs")) for facts in story.ledgers] for story in stories]


def test_each_run_has_the_ledger_of_its_collector() -> None:
    """A collector that started after a run's first process, and closed before the next run began, collected that run alone."""
    run = Scripts()
    for pid, at in ((100, 0.0), (200, 10.0), (300, 20.0)):
        run.script(at, run.process(pid, pid))
        run.closed(at + 3, run.process(pid + 1, pid + 1, "collector"), pid)
    assert accepted(run.told()) == [[(100, None)], [(200, None)], [(300, None)]]


def test_a_ledger_of_several_runs_says_so() -> None:
    """What a collector counted that was there for two runs is of both: nothing tells whose each record was."""
    run = Scripts()
    for pid, at in ((100, 0.0), (200, 10.0)):
        run.script(at, run.process(pid, pid))
    run.closed(13, run.process(101, 101, "collector"), 8)
    run.script(20, run.process(300, 300))
    run.closed(23, run.process(301, 301, "collector"), 4)
    stories = run.told()
    assert accepted(stories) == [[(8, 2)], [(8, 2)], [(4, None)]]
    console = Console(file=io.StringIO(), width=200)
    console.print(summary_terminal(summary(stories[0])))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Records through sqlite, of 2 runs that it does not part: 8 accepted, 8 delivered, none lost." in text


def test_a_process_closes_its_own_sink() -> None:
    """The ledger of a process that drained itself is its run's, whenever it came."""
    run = Scripts()
    for pid, at in ((100, 0.0), (200, 10.0)):
        run.script(at, run.process(pid, pid))
        run.closed(15, run.process(pid, pid), pid)
    assert accepted(run.told()) == [[(100, None)], [(200, None)]]


def test_a_loss_is_of_the_run_whose_ring_lost_it() -> None:
    """Whoever tells it, and however late."""
    run = Scripts()
    for pid, at in ((100, 0.0), (200, 10.0)):
        run.script(at, run.process(pid, pid))
    lost = {"pid": 100, "process": run.process(100, 100).process, "reason": "overwritten", "count": 7, "total": 7}
    run.tell(11, run.process(201, 201, "collector"), "recorder.lost", **lost)
    assert [story.lost for story in build(run.records)] == [{"overwritten": 7}, {}]


def test_a_run_without_a_ledger_says_so() -> None:
    """The ledger of another run is none of its own: its end may be missing."""
    run = Scripts()
    for pid, at in ((100, 0.0), (200, 10.0)):
        run.script(at, run.process(pid, pid))
    run.closed(13, run.process(201, 201, "collector"), 4)
    first, second = run.told()
    assert (first.ledgers, len(second.ledgers)) == ([], 1)
    assert START <= first.began_ns < second.began_ns


def overlapping(run_id: str, *, round_: Any = None, pids: bool = True, ranks: int = 2) -> Run:
    """Return two jobs of one id that run at once on one host: the first one succeeds, a rank of the second one fails."""
    run = Run(run_id)
    for at, number, name in ((0.0, 1, "succeeded"), (0.5, 2, "failed")):
        agent = run.agent(pid=10 * number)
        run.tell(at, agent, "job.started")
        run.tell(at, agent, "attempt.started", attempt=0, world_size=2, round=round_, ranks=[0, 1])
        for rank in range(ranks):
            own = {"pid": 1000 * number + rank} if pids else {}
            run.tell(at, agent, "worker.started", rank=rank, local_rank=rank, attempt=0, **own)
            run.steps(run.worker(rank, pid=1000 * number + rank), range(4 * number), at + 1, 1)
        if name == "failed":
            run.failed(at + 9, agent, 0, 1, exit_code=7)
        run.tell(at + 9, agent, "attempt.ended", attempt=0, outcome=name)
        run.tell(at + 9, agent, f"job.{name}")
    return run


@pytest.mark.parametrize("run_id", [NAMELESS, "given"])
@pytest.mark.parametrize("round_", [None, 0])
def test_jobs_at_once_under_one_name_are_jobs_of_their_own(run_id: str, round_: Any) -> None:
    """Two agents that have a rank 0 at a time, in one round, are of two jobs: what one of them failed of, the other did not."""
    first, second = (summary(story) for story in build(overlapping(run_id, round_=round_).records))
    assert (first.outcome, second.outcome) == ("succeeded", "failed")
    assert [len(one.attempts) for one in (first, second)] == [1, 1]
    assert [attempt.world_size for one in (first, second) for attempt in one.attempts] == [2, 2]


def test_jobs_at_once_that_cannot_be_parted_are_one() -> None:
    """Where no pid says whose a rank is, or an agent has no rank 0, nobody knows which is of which."""
    assert len(build(overlapping("given", pids=False).records)) == 1
    run = overlapping("given")
    run.start(1, run.agent(pid=30), 0, range(2, 3))
    assert len(build(run.records)) == 1


def test_an_agent_that_takes_over_the_first_rank_is_of_the_same_job() -> None:
    """In another round, or when the one before has ended, two agents of one job have a rank 0."""
    for later, round_ in ((4.0, 1), (12.0, 0)):
        run = Run("given")
        run.tell(0, run.agent(pid=10), "job.started")
        run.start(0, run.agent(pid=10), 0, range(1))
        run.tell(9, run.agent(pid=10), "agent.left")
        run.start(later, run.agent(pid=20), 1, range(1), round=round_)
        assert len(build(run.records)) == 1
