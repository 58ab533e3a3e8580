"""Causes before consequences: who died first over all nodes, who went, and what the job came to."""

import pytest
from msgspec.structs import replace

from elastic_events.bus.context import Context
from elastic_events.reading.buckets import goodput
from elastic_events.reading.builder import build
from elastic_events.reading.overview import summary
from elastic_events.reading.rows import timeline
from elastic_events.reading.story import Story
from tests.reading.runs import START, Run
from tests.reading.stories import by_clock
from tests.reading.test_summary import shown
from tests.records import changed


def told(run: Run) -> Story:
    """The one story of a run."""
    (story,) = build(run.records)
    return story


def ns(at: float) -> int:
    """Wall nanoseconds of a second of the run."""
    return START + round(at * 1e9)


class Two:
    """Two nodes with two ranks each, in their first attempt."""

    def __init__(self) -> None:
        self.run = Run()
        self.a, self.b = self.run.agent("a", 10), self.run.agent("b", 20)
        self.start(1, 0, [self.a, self.b])

    def start(self, at: float, attempt: int, agents: list[Context]) -> None:
        """Let an attempt begin on some nodes."""
        for place, agent in enumerate(agents):
            about = {"round": attempt, "rank": place, "world_size": len(agents), "duration_ms": 500}
            self.run.tell(at, agent, "rendezvous.completed", **about)
            sizes = {"world_size": 2 * len(agents), "group_world_size": len(agents), "attempt": attempt}
            self.run.tell(at, agent, "attempt.started", round=attempt, **sizes)
            for rank in (2 * place, 2 * place + 1):
                who = self.worker(rank, attempt, agent.host)
                about = {"rank": rank, "local_rank": rank % 2, "pid": who.pid, "attempt": attempt}
                self.run.tell(at, agent, "worker.started", **about)

    def worker(self, rank: int, attempt: int = 0, host: str = "") -> Context:
        """The context of a rank."""
        return self.run.worker(rank, attempt, host or "ab"[rank // 2], 100 + 10 * attempt + rank)

    def failed(self, at: float, rank: int, **facts: object) -> None:
        """Record that a rank of the first attempt failed."""
        self.run.failed(at, (self.a, self.b)[rank // 2], 0, rank, **{"local_rank": rank % 2, **facts})

    def over(self, at: float, agent: Context, outcome: str, attempt: int = 0) -> None:
        """End an attempt of one node."""
        self.run.tell(at, agent, "attempt.ended", attempt=attempt, outcome=outcome)

    def done(self, at: float, *agents: Context, attempt: int = 1) -> None:
        """Let an attempt and the job succeed."""
        for agent in agents:
            self.over(at, agent, "succeeded", attempt)
            self.run.tell(at, agent, "job.succeeded")


def killed(died: bool) -> Run:
    """Rank 1 is killed at 5 s; its agent tells of it 4 s later. Ranks 2 and 3 break 60 ms after, and are told of at once."""
    two = Two()
    for rank in range(4):
        two.run.steps(two.worker(rank), range(2), 2, 1.4, ended=False)
    for rank in (2, 3):
        two.run.tell(5.06, two.worker(rank), "step.ended", step=1, error="RuntimeError")
        facts = {"died_ns": ns(5.065)} if died else {}
        two.failed(5.2, rank, exit_code=1, first=rank == 2, **facts)
    two.over(5.2, two.b, "failed")
    facts = {"died_ns": ns(5)} if died else {}
    two.failed(9, 1, signal="SIGKILL", **facts)
    two.failed(9, 0, signal="SIGTERM", first=False, victim=True)
    two.over(9, two.a, "failed")
    two.start(12, 1, [two.a, two.b])
    two.done(20, two.a, two.b)
    return two.run


def test_the_first_death_over_all_nodes() -> None:
    """Failures stand in the order of the deaths, not in that of the agents' words; what broke after is a consequence."""
    (first, _) = summary(told(killed(died=True))).attempts
    assert first.first_failure is not None
    assert (first.first_failure.rank, first.first_failure.at_s, first.first_failure.noticed) == (1, 4.5, False)
    assert (first.failed, first.consequences, first.victims) == (3, 2, 1)
    kinds = {m.label.partition(":")[0]: m.kind for r in timeline(told(killed(died=True))).rows for m in r.marks}
    assert kinds["rank 1"] == "first"


def test_an_order_that_is_not_recorded_is_unknown() -> None:
    """Where the times of two deaths overlap, as far as the records tell, none is the first, and both are named."""
    (first, _) = summary(told(killed(died=False))).attempts
    assert first.first_failure is None
    assert [(one.rank, one.signal) for one in first.suspects] == [(1, "SIGKILL"), (2, None)]


def test_a_collector_knows_better_than_an_agent() -> None:
    """A death that the collector saw at once is told by that time, not by when the agent had stopped all others."""
    run = Run()
    agent = run.agent()
    run.start(0, agent, 0, range(2))
    run.tell(5.2, run.worker(1), "worker.died", pid=101, host="a")
    run.failed(9, agent, 0, 1, signal="SIGKILL")
    run.failed(9, agent, 0, 0, signal="SIGTERM", first=False, victim=True)
    run.tell(9, agent, "attempt.ended", attempt=0, outcome="failed")
    assert told(run).attempts[0].first_failure is not None
    assert summary(told(run)).attempts[0].first_failure.at_s == pytest.approx(5.2)  # type: ignore[union-attr]


@pytest.mark.parametrize("restart", [True, False])
def test_a_node_that_leaves(restart: bool) -> None:
    """A node that is stopped by a signal is named as the cause; the job is what the others make of it (scale-down)."""
    two = Two()
    two.failed(5.3, 2, signal="SIGTERM", first=False, victim=True)
    two.failed(5.3, 3, signal="SIGTERM", first=False, victim=True)
    two.over(5.3, two.b, "stopped")
    two.run.tell(5.4, two.b, "job.failed", reason="SignalException", signal="SIGTERM")
    two.failed(6, 1, exit_code=1)
    two.failed(6, 0, signal="SIGTERM", first=False, victim=True)
    two.over(6, two.a, "failed")
    if restart:
        two.start(12, 1, [two.a])
        two.done(20, two.a)
    else:
        two.run.tell(67, two.a, "rendezvous.failed", duration_ms=61_000)
        two.run.tell(67, two.a, "job.failed", reason="RendezvousTimeoutError")
    story = told(two.run)
    answer = summary(story)
    assert (answer.outcome, answer.reason) == (("succeeded", "") if restart else ("failed", "RendezvousTimeoutError"))
    assert [(one.node, one.how, one.signal, one.attempt) for one in answer.departed] == [("b", "left", "SIGTERM", 0)]
    first = answer.attempts[0]
    assert (first.first_failure, first.suspects, first.departed, first.consequences) == (None, [], ["b"], 1)
    if restart:
        assert ([row.world_size for row in answer.attempts], answer.membership_changes) == ([4, 2], 1)
    else:
        assert [(one.node, one.seconds, one.completed) for one in answer.gathering] == [("a", 61, False)]
        box = timeline(story).rows[0].boxes[-1]
        assert (box.state, box.label, box.end_s - box.start_s) == ("rendezvous", "failed", pytest.approx(61))
        buckets = {bucket.name: bucket.seconds for bucket in goodput(story).buckets}
        assert buckets["rendezvous"] == pytest.approx(61.5)


def test_a_node_that_vanishes() -> None:
    """A node of which nothing comes any more is named first, and its ranks are not drawn longer than they were heard."""
    two = Two()
    for rank in range(4):
        two.run.steps(two.worker(rank), range(2), 2, 1.4, ended=False)
    two.failed(6, 1, exit_code=1)
    two.failed(6, 0, signal="SIGTERM", first=False, victim=True)
    two.over(6, two.a, "failed")
    two.start(12, 1, [two.a])
    two.done(20, two.a)
    story = told(two.run)
    answer = summary(story)
    assert [(one.node, one.how, one.at_s) for one in answer.departed] == [("b", "silent", pytest.approx(2.9))]
    assert (answer.outcome, answer.attempts[0].first_failure, answer.attempts[0].consequences) == ("succeeded", None, 1)
    ends = {w.rank: (w.ended_ns or 0) - story.began_ns for w in story.attempts[0].workers}
    assert (ends[2], ends[3]) == (pytest.approx(2.9e9), pytest.approx(2.9e9))


@pytest.mark.parametrize("name", ["agent.died", "worker.died"])
@pytest.mark.parametrize("others", [True, False])
def test_an_agent_that_was_killed(name: str, others: bool) -> None:
    """A killed agent makes the job failed, unless another one remained and finished; either way it is named."""
    two = Two()
    about = {"pid": 20, "host": "b", "last_record_age_s": 1.0, "signal": "SIGKILL"}
    two.run.tell(5, two.b, name, **about)
    if others:
        two.done(20, two.a, attempt=0)
    else:
        two.run.tell(6, two.a, name, **{**about, "pid": 10, "host": "a"})
    answer = summary(told(two.run))
    assert answer.outcome == ("succeeded" if others else "failed")
    assert ("b", "died", "SIGKILL") in [(one.node, one.how, one.signal) for one in answer.departed]


def test_an_agent_whose_workers_went_on_was_last_heard_when_it_was_found_dead() -> None:
    """torch leaves them running: what they do is no sign of their agent's life."""
    two = Two()
    for rank in range(4):
        two.run.steps(two.worker(rank), range(10), 2, 1)
    two.run.tell(5, two.b, "agent.died", pid=20, host="b", last_record_age_s=1.0, signal="SIGKILL")
    two.done(20, two.a, attempt=0)
    (departure,) = summary(told(two.run)).departed
    assert departure.at_s == pytest.approx(5 - 0.5)  # the first rendezvous began there


@pytest.mark.parametrize("first", ["a", "b"])
def test_the_reason_of_a_job_is_that_of_the_node_whose_worker_failed(first: str) -> None:
    """The other one loses the store with it: that comes later, and of it, wherever it stands in the records."""
    two = Two()
    failing, other = (two.a, two.b) if first == "a" else (two.b, two.a)
    two.failed(5, 0 if first == "a" else 2, exit_code=1)
    two.over(5, failing, "failed")
    two.run.tell(5.1, failing, "job.failed", reason="workers failed")
    two.over(5.6, other, "failed")
    two.run.tell(5.6, other, "job.failed", reason="RendezvousConnectionError: no store")
    assert summary(told(two.run)).reason == "workers failed"


def test_an_end_that_nobody_said_is_unknown() -> None:
    """While one node of the last attempt has not said how it ended, or was not read, the outcome is unknown."""
    two = Two()
    two.over(9, two.a, "succeeded")
    two.run.tell(9, two.a, "job.succeeded")
    assert told(two.run).outcome == "unknown"
    alone = [record for record in two.run.records if record.context.host == "a"]
    (story,) = build(alone)
    assert (story.outcome, story.unread, story.attempts[0].outcome) == ("unknown", 1, "unknown")


def test_a_rendezvous_ends_where_torch_says() -> None:
    """A rendezvous ends with torch's own record of it, not when the ranks had been assigned, nor with the agent."""
    run = Run()
    agent = run.agent()
    run.tell(0, agent, "job.started")
    run.raw(10, agent, "torchelastic.worker.status.RENDEZVOUS", {})
    run.tell(14, agent, "rendezvous.completed", round=0, rank=0, world_size=1, duration_ms=8000)
    run.start(14.5, agent, 0, range(1))
    run.tell(20, agent, "attempt.ended", attempt=0, outcome="failed")
    run.raw(81, agent, "torchelastic.worker.status.RENDEZVOUS", {})
    run.failed(85, agent, 0, 0, exit_code=1)
    run.tell(85, agent, "rendezvous.failed", duration_ms=60_000)
    run.tell(85, agent, "job.failed", reason="RendezvousTimeoutError")
    story = told(run)
    assert [(r.start_ns - START, r.end_ns - START) for r in story.attempts[0].rendezvous] == [(2e9, 10e9)]
    assert [(r.start_ns - START, r.end_ns - START) for r in story.gathering] == [(21e9, 81e9)]
    assert story.attempts[0].workers[0].ended_ns == ns(20)


def test_jobs_of_one_id_are_not_mixed() -> None:
    """An agent that came when all of an attempt had long been silent, as after a job that was killed, is not part of it."""
    two = Two()
    later = two.run.agent("a", 30)
    two.run.tell(100, later, "job.started")
    two.run.start(102, later, 0, range(2), round=0)
    assert [len(attempt.nodes) for attempt in told(two.run).attempts] == [2, 1]


def test_an_attempt_of_which_none_is_left_ends_with_their_last_word() -> None:
    """A launcher that is killed with its workers, and begun anew under its id, was not at work in between."""
    run = Run()
    first, second = run.agent(), run.agent(pid=30)
    run.tell(0, first, "job.started")
    run.start(1, first, 0, range(1))
    last = run.steps(run.worker(0), range(3), 2, 1)
    run.tell(60, second, "job.started")
    run.start(61, second, 1, range(1), restart=1)
    run.steps(run.worker(0, 1), range(3), 65, 1)
    run.tell(70, second, "attempt.ended", attempt=1, outcome="succeeded")
    run.tell(70, second, "job.succeeded")
    before, after = summary(told(run)).attempts
    assert (before.outcome, before.start_s + (before.duration_s or 0)) == ("unknown", last)
    assert after.restart_to_step_s == 65 - last
    requeue = {one.name: one.seconds for one in goodput(told(run)).buckets}["requeue"]
    assert requeue == 60 - last


def test_one_round_tells_a_clock_that_is_a_minute_off() -> None:
    """One rendezvous in which each node has a rank of its own is enough to set a clock right."""
    run = Run()
    for place, (host, ahead) in enumerate((("a", 0), ("b", 60))):
        agent = run.agent(host, 10 + place)
        run.tell(ahead, agent, "job.started")
        about = {"round": 0, "rank": place, "world_size": 2, "duration_ms": 900}
        run.tell(ahead + 1, agent, "rendezvous.completed", **about)
        run.start(ahead + 1, agent, 0, range(place, place + 1), round=0, world_size=2)
    story = told(run)
    assert [len(attempt.nodes) for attempt in story.attempts] == [2]
    assert story.offsets["b"].applied


def test_a_death_on_a_clock_that_is_set_back() -> None:
    """A time of death that was recorded moves with the clock of who recorded it."""
    run = Run()
    agent = run.agent()
    run.start(0, agent, 0, range(2))
    run.failed(9, agent, 0, 1, signal="SIGKILL", died_ns=ns(5))
    late = run.records[-1]
    ahead = 3600 * 10**9
    facts = {**late.fields[2], "died_ns": ns(5) + ahead}
    run.records[-1] = changed(late, time_ns=late.time_ns + ahead, fields=("AGENT", 0, facts))
    assert told(run).attempts[0].workers[1].died_ns == ns(5)


def test_deaths_that_two_agents_saw_within_one_look_are_not_put_in_order() -> None:
    """Agents that look at their workers now and then know a span, not a moment: where two overlap, either may be the first.

    Nor is there an order between hosts whose clocks no common rendezvous compares.
    """
    for apart, met, first in ((0.05, True, None), (0.5, True, 0), (0.5, False, None)):
        run = Run()
        for number in range(2):
            agent = run.agent(f"node{number}")
            if met:
                run.tell(1, agent, "rendezvous.completed", round=0, rank=number, world_size=2)
            run.tell(1, agent, "attempt.started", attempt=0, world_size=2, group_world_size=2, round=0)
            run.tell(1, agent, "worker.started", rank=number, local_rank=0, pid=number + 1, attempt=0)
            at = 5 + number * apart
            looks = {"alive_ns": ns(at - 0.1), "died_ns": ns(at)}
            run.failed(9, agent, 0, number, local_rank=0, exit_code=1, first=True, **looks)
            run.tell(10, agent, "attempt.ended", attempt=0, outcome="failed")
        (attempt,) = told(run).attempts
        assert (attempt.first_failure and attempt.first_failure.rank) == first
        assert len(attempt.suspects) == (2 if first is None else 0)


def test_a_victim_of_a_node_whose_end_is_lost_had_a_cause_before_it() -> None:
    """Who broke after an agent had ended its worker was not the first, although that agent's own reason was not recorded."""
    job = Two()
    for rank in (0, 1):
        job.failed(6.4, rank, signal="SIGTERM", first=False, victim=True, died_ns=ns(6.1))
    job.failed(6.5, 2, exit_code=1, died_ns=ns(6.3))
    job.failed(6.5, 3, signal="SIGTERM", first=False, victim=True, died_ns=ns(6.4))
    job.over(6.5, job.b, "failed")
    (attempt,) = told(job.run).attempts
    assert attempt.first_failure is None
    assert [worker.rank for worker in attempt.suspects] == [2]


def test_deaths_that_one_agent_saw_in_one_look_are_not_put_in_order() -> None:
    """Of two workers that an agent found dead at once it cannot know which was first, whichever it names; later ones it does."""
    for second, first in ((5.0, None), (5.1, 0)):
        run = Run()
        agent = run.agent()
        run.start(1, agent, 0, range(2))
        run.failed(9, agent, 0, 0, exit_code=1, alive_ns=ns(4.9), died_ns=ns(5))
        looks = {"alive_ns": ns(second - 0.1), "died_ns": ns(second)}
        run.failed(9, agent, 0, 1, signal="SIGKILL", first=False, **looks)
        run.tell(10, agent, "attempt.ended", attempt=0, outcome="failed")
        (attempt,) = told(run).attempts
        assert (attempt.first_failure and attempt.first_failure.rank) == first
        assert [worker.rank for worker in attempt.suspects] == ([1, 0] if first is None else [])


def test_a_signal_to_all_of_a_job() -> None:
    """Workers that got the signal that stopped their agent, before it could stop them, are no failures of their own."""
    run = Run()
    agent = run.agent()
    run.tell(0, agent, "job.started")
    run.start(1, agent, 0, range(2))
    for rank in range(2):
        run.tell(5.1, run.worker(rank), "worker.died", pid=100 + rank, host="a", signal="SIGTERM")
    run.tell(5.2, agent, "attempt.ended", attempt=0, outcome="stopped")
    run.tell(5.3, agent, "job.failed", reason="SignalException", signal="SIGTERM")
    answer = summary(told(run))
    (attempt,) = answer.attempts
    assert (answer.outcome, attempt.outcome, attempt.failed, attempt.victims) == ("failed", "stopped", 0, 2)
    assert (attempt.first_failure, attempt.suspects) == (None, [])


def test_a_signal_to_all_of_a_job_that_handles_it() -> None:
    """Workers that handled that signal, and left with its exit code, are no failures of their own either."""
    run = Run()
    agent = run.agent()
    run.tell(0, agent, "job.started")
    run.start(1, agent, 0, range(2))
    for rank in range(2):
        run.tell(5 + rank / 10, run.worker(rank), "worker.exit", code=143, message="sys.exit(143)")
        run.failed(5.2, agent, 0, rank, exit_code=143, first=not rank)
    run.tell(5.2, agent, "attempt.ended", attempt=0, outcome="stopped")
    run.tell(5.3, agent, "job.failed", reason="SignalException", signal="SIGTERM")
    (attempt,) = summary(told(run)).attempts
    assert (attempt.first_failure, attempt.suspects, attempt.failed, attempt.victims) == (None, [], 0, 2)


def slow_to_end(raised: float) -> Run:
    """Rank 1 raises at 5 s and waits for a thread of its own; rank 0 runs into a timeout at 9 s, and its agent ends rank 1."""
    run = Run()
    agent = run.agent()
    run.tell(0, agent, "job.started")
    run.start(1, agent, 0, range(2))
    run.steps(run.worker(0), range(3), 2, 1, ended=False)
    run.steps(run.worker(1), range(2), 2, 1.4)
    run.tell(raised, run.worker(1), "worker.exception", type="ValueError", message="bad batch", line=7, file="train.py")
    run.tell(9, run.worker(0), "worker.exception", type="RuntimeError", message="timed out")
    run.failed(14, agent, 0, 0, exit_code=1, alive_ns=ns(9.9), died_ns=ns(10))
    ended = {"signal": "SIGTERM", "first": False, "victim": True}
    run.failed(14, agent, 0, 1, alive_ns=ns(13.9), died_ns=ns(14), **ended)
    run.tell(14, agent, "attempt.ended", attempt=0, outcome="failed")
    run.tell(14, agent, "job.failed", reason="workers failed")
    return run


def test_what_raised_first_failed_first_however_long_it_takes_to_end() -> None:
    """A process that waits for a thread behind its exception is the cause; that its agent ended it later makes no victim."""
    row = summary(told(slow_to_end(5))).attempts[0]
    assert row.first_failure is not None
    assert (row.first_failure.rank, row.first_failure.raised_s) == (1, 5)
    assert (row.first_failure.message, row.victims, row.consequences) == ("ValueError: bad batch", 0, 1)
    text = shown(slow_to_end(5))
    assert "rank 1 on a: ValueError, ended by SIGTERM, 1 consequence" in text
    assert "It said so at +5.0 s; the process ended 9.0 s later." in text
    late = summary(told(slow_to_end(9.5))).attempts[0]  # since it was told to end
    assert late.first_failure is not None
    assert (late.first_failure.rank, late.victims) == (0, 1)


@pytest.mark.parametrize("word", ["worker.exit", "worker.exception", ""])
def test_who_broke_of_a_peer_that_was_ending_is_no_cause(word: str) -> None:
    """An exit closes what the others talk to some time before the process is dead: their exceptions are older than its end."""
    run = slow_to_end(9)
    run.records = [one for one in run.records if one.name != "worker.exception"]
    run.tell(9.2, run.worker(1), "worker.exception", type="RuntimeError", message="connection closed by peer")
    if word:
        run.tell(9.8, run.worker(0), word, code=1, message="behind its finally")
    first = summary(told(run)).attempts[0].first_failure
    assert first is not None
    assert first.rank == 0


def slow_exit(broke: bool, caught: bool = False, broken: bool = False, retried: bool = False) -> Run:
    """Rank 1 exits at 5 s, and takes long to end; rank 0 breaks of it a second later, and leaves at once."""
    run = Run()
    agent = run.agent()
    run.start(1, agent, 0, range(2))
    for rank in range(2):
        run.steps(run.worker(rank), range(3), 2, 1, ended=False)
    if retried:
        run.tell(3.5, run.worker(1), "collective.failed", function="all_reduce", error="timed out")
    if broken:
        run.tell(4.9, run.worker(1), "collective.failed", function="all_reduce", error="timed out")
    run.tell(5, run.worker(1), "worker.exit", code=1, message="sys.exit('fatal')")
    if caught:
        run.steps(run.worker(1), range(3, 4), 5.5, 0.4)
    if broke:
        run.tell(6, run.worker(0), "collective.failed", function="all_reduce", error="connection closed by peer")
    run.tell(6.1, run.worker(0), "worker.exit", code=3, message="os._exit(3)")
    run.failed(6.3, agent, 0, 0, exit_code=3, alive_ns=ns(6.1), died_ns=ns(6.2))
    run.failed(6.3, agent, 0, 1, signal="SIGTERM", first=False, victim=True, alive_ns=ns(6.2), died_ns=ns(6.3))
    run.tell(6.4, agent, "attempt.ended", attempt=0, outcome="failed")
    return run


def test_who_was_on_its_way_out_failed_before_its_peer_that_broke_of_it() -> None:
    """An exit may take a second, in which a peer breaks, and is dead first: it said of what, and the other said its exit."""
    (row,) = summary(told(slow_exit(broke=True))).attempts
    first = row.first_failure
    assert first is not None
    assert (first.rank, first.message, first.raised_s) == (1, "sys.exit('fatal')", 4)
    assert (row.victims, row.consequences) == (0, 1)
    assert "rank 1 on a: sys.exit('fatal'), ended by SIGTERM, 1 consequence" in shown(slow_exit(broke=True))
    first = summary(told(slow_exit(broke=True, retried=True))).attempts[0].first_failure
    assert first is not None
    assert first.rank == 1
    for run in (slow_exit(broke=False), slow_exit(broke=True, caught=True), slow_exit(broke=True, broken=True)):
        first = summary(told(run)).attempts[0].first_failure
        assert first is not None
        assert first.rank == 0


@pytest.mark.parametrize(("raised", "known"), [(5, False), (9.5, True)])
def test_who_may_have_raised_before_its_peer_broke_by_another_clock(raised: float, known: bool) -> None:
    """Rank 2 took two seconds to end; by clocks that are known to a second, rank 0 may have broken of it just then."""
    two = Two()
    two.run.tell(raised, two.worker(2), "worker.exit", code=1, message="sys.exit(1)")
    two.run.tell(5.2, two.worker(0), "collective.failed", function="all_reduce", error="connection closed by peer")
    for agent, mate, at in ((two.a, 1, 5.5), (two.b, 3, raised + 2.2)):
        two.failed(at, mate - 1, exit_code=1, died_ns=ns(at - 0.2))
        two.failed(at, mate, signal="SIGTERM", first=False, victim=True, died_ns=ns(at - 0.1))
        two.over(at + 0.1, agent, "failed")
    two.run.records = [by_clock(record, 60 if record.context.host == "b" else 0) for record in two.run.records]
    (attempt,) = told(two.run).attempts
    suspects = {worker.rank for worker in attempt.suspects}
    assert (attempt.first_failure and attempt.first_failure.rank, suspects) == ((0, set()) if known else (None, {0, 2}))


def test_an_exception_left_a_step_by_the_clock_of_its_host() -> None:
    """What a host's clock is ahead is taken off the time at which an exception left a step, as off any other."""
    two = Two()
    two.run.tell(3, two.worker(2), "step.started", step=0)
    two.run.tell(4, two.worker(2), "step.ended", step=0, error="ValueError")
    two.run.records = [by_clock(record, 60 if record.context.host == "b" else 0) for record in two.run.records]
    (process,) = (worker.process for worker in told(two.run).workers() if worker.process is not None)
    assert (list(process.starts), process.errors) == ([ns(3)], {0: ns(4)})


@pytest.mark.parametrize("order", ["as it was", "the word first"])
def test_a_word_on_a_death_is_no_sign_of_life_wherever_it_stands(order: str) -> None:
    """A collector says it behind the death: whether another failed in between is not known, in whatever order it is read."""
    run = Run()
    for number, host in enumerate("ab"):
        agent = run.agent(host)
        run.tell(1, agent, "rendezvous.completed", round=0, world_size=2, rank=number)
        run.tell(1, agent, "attempt.started", attempt=0, round=0, world_size=2, group_world_size=2)
        run.tell(1, agent, "worker.started", rank=number, local_rank=0, pid=100 + number, attempt=0)
    dead = run.worker(0, host="a", pid=100)
    run.tell(3, dead, "step.started", step=0)
    run.tell(5.4, dead, "worker.died", pid=100, host="a", signal="SIGKILL")
    run.failed(5.5, run.agent("a"), 0, 0, signal="SIGKILL", pid=100)
    run.failed(5.5, run.agent("b"), 0, 1, exit_code=1, pid=101, died_ns=ns(5.1), local_rank=0)
    run.tell(5.6, run.agent("a"), "attempt.ended", attempt=0, outcome="failed")
    run.tell(5.6, run.agent("b"), "attempt.ended", attempt=0, outcome="failed")
    if order == "the word first":
        run.records.sort(key=lambda record: record.name != "worker.died")
    (attempt,) = told(run).attempts
    assert (attempt.first_failure, {worker.rank for worker in attempt.suspects}) == (None, {0, 1})


def test_who_ended_well_before_the_first_failure_is_told() -> None:
    """The failure of the others may be that they waited for a rank whose script was over: no failure, but not to be left out."""
    run = Run()
    agent = run.agent()
    run.start(1, agent, 0, range(2))
    looks = {"alive_ns": ns(4.9), "died_ns": ns(5)}
    run.tell(9, agent, "worker.succeeded", rank=1, local_rank=1, pid=101, attempt=0, **looks)
    run.failed(9, agent, 0, 0, exit_code=1, alive_ns=ns(8.9), died_ns=ns(9), pid=100)
    run.tell(9, agent, "attempt.ended", attempt=0, outcome="failed")
    assert summary(told(run)).attempts[0].done_before == [1]
    text = shown(run)
    assert "Rank 1 had ended before the first failure of attempt 0, with exit code 0." in text
    assert "It recorded nothing itself" in text  # rank 0: whose error nobody has
    (row,) = [row for row in timeline(told(run)).rows if row.label == "rank 1"]
    assert [box.end_s for box in row.boxes] == [4]  # of the job, which began at 1 s


@pytest.mark.parametrize(("left", "host", "done"), [(8.5, "a", [1]), (8.8, "a", []), (8.5, "b", []), (7, "b", [1])])
def test_who_left_a_moment_before_its_peer_broke_is_told(left: float, host: str, done: list[int]) -> None:
    """The agent's look sees both dead at once; who left with code 0 said so, on its own clock."""
    run = Run()
    agent = run.agent()
    run.start(1, agent, 0, range(2))
    other = run.agent(host) if host != "a" else agent
    run.tell(1, other, "worker.started", rank=1, local_rank=1, pid=101, attempt=0)
    one = run.worker(1, host=host)
    for who in (run.worker(0), one):
        run.steps(who, range(3), 2, 1)
    run.tell(left, one, "worker.exit", code=0, message="sys.exit(0)")
    run.tell(8.6, run.worker(0), "worker.exception", type="RuntimeError", message="connection closed by peer")
    looks = {"alive_ns": ns(8.4), "died_ns": ns(9)}
    run.tell(9, other, "worker.succeeded", rank=1, local_rank=1, pid=101, attempt=0, **looks)
    run.failed(9, agent, 0, 0, exit_code=1, pid=100, **looks)
    run.tell(9, agent, "attempt.ended", attempt=0, outcome="failed")
    (attempt,) = summary(told(run)).attempts
    assert attempt.done_before == done
    assert attempt.first_failure is not None
    assert attempt.first_failure.rank == 0


def test_who_was_over_before_another_came_did_not_leave_it() -> None:
    """A job that failed and was started again under its id, a day later: the first agent gave up nobody."""
    run = Run()
    for at, (agent, day) in enumerate(((run.agent("a", 10), 0), (run.agent("a", 20), 86_400))):
        run.tell(day, agent, "job.started")
        run.tell(day + 1, agent, "attempt.started", attempt=0, world_size=2, group_world_size=1)
        for rank in range(2):
            who = run.worker(rank, pid=100 + rank + 10 * at)
            run.tell(day + 1, agent, "worker.started", attempt=0, rank=rank, local_rank=rank, pid=who.pid)
            run.steps(who, range(4 * at, 4 * at + 4), day + 2, 1)
        outcome = ("failed", "succeeded")[at]
        if not at:
            run.failed(7, agent, 0, 1, exit_code=1, pid=101)
            run.failed(7, agent, 0, 0, signal="SIGTERM", first=False, victim=True, pid=100)
        run.tell(day + 8, agent, "attempt.ended", attempt=0, outcome=outcome)
        run.tell(day + 8, agent, f"job.{outcome}", reason="" if at else "workers failed")
    answer = summary(told(run))
    assert (answer.outcome, answer.departed, [row.departed for row in answer.attempts]) == ("succeeded", [], [[], []])
    assert "gave up" not in shown(run)


@pytest.mark.parametrize("whole", [True, False])
def test_nodes_of_a_static_rendezvous_are_put_on_one_clock(whole: bool) -> None:
    """It has no rounds: its nodes' attempts are one where all of them told theirs, whatever their clocks say."""
    run = Run()
    agents = run.agent("a", 10), run.agent("b", 20)
    for place, (agent, ahead) in enumerate(zip(agents, (0, -90), strict=True)):
        sizes = {"world_size": 4, "group_world_size": 2, **({"group_rank": place} if whole else {})}
        run.tell(ahead, agent, "job.started")
        run.tell(ahead + 1, agent, "attempt.started", attempt=0, round=None, **sizes)
        for rank in (2 * place, 2 * place + 1):
            who = run.worker(rank, 0, agent.host, 100 + rank)
            run.tell(ahead + 1, agent, "worker.started", rank=rank, local_rank=rank % 2, pid=who.pid, attempt=0)
            run.steps(who, range(3), ahead + 2, 1)
        death = {"exit_code": 7 if place else 1, "died_ns": ns(ahead + 6 - place), "pid": 101 + place}
        run.failed(ahead + 7, agent, 0, 1 + place, local_rank=1 - place, **death)
        run.tell(ahead + 7, agent, "attempt.ended", attempt=0, outcome="failed")
        run.tell(ahead + 7, agent, "job.failed", reason="workers failed")
    answer = summary(told(run))
    if not whole:
        assert answer.clocks == []
        return
    (attempt,) = answer.attempts
    assert (attempt.outcome, answer.restarts, round(answer.wall_s)) == ("failed", 0, 7)
    assert [(clock.host, clock.ahead_s, clock.corrected) for clock in answer.clocks] == [("a", 90, True)]
    assert goodput(told(run)).steps_redone == 0
    assert attempt.first_failure is None or attempt.first_failure.rank == 2


@pytest.mark.parametrize("hosts", ["aa", "ab"])
def test_nodes_of_a_static_rendezvous_restart_each_when_it_sees_the_failure(hosts: str) -> None:
    """Their attempts are one by their number, also where one node has failed again before the other began anew."""
    run = Run()
    failures = ((5, 3), (7, 4)), ((15, 1), (18, 5))
    for place, (host, own) in enumerate(zip(hosts, failures, strict=True)):
        agent = run.agent(host, 10 + place)
        run.tell(0, agent, "job.started")
        begin = 1 + 0.3 * place
        for attempt, (at, code) in enumerate(own):
            who = run.worker(place, attempt, host)
            sizes = {"world_size": 2, "group_world_size": 2, "group_rank": place}
            run.tell(begin, agent, "attempt.started", attempt=attempt, round=None, **sizes)
            run.tell(begin, agent, "worker.started", attempt=attempt, rank=place, local_rank=0, pid=who.pid)
            run.steps(who, range(2), begin + 0.2, 0.5)
            run.failed(at, agent, attempt, place, local_rank=0, exit_code=code, died_ns=ns(at - 0.1))
            run.tell(at, agent, "attempt.ended", attempt=attempt, outcome="failed")
            begin = at + 0.1
        run.tell(begin, agent, "job.failed", reason="workers failed", restarts=1)
    answer = summary(told(run))
    assert (answer.restarts, answer.nodes_unread) == (1, 0)
    assert not any(clock.corrected for clock in answer.clocks)
    firsts = [row.first_failure for row in answer.attempts]
    assert [first and first.exit_code for first in firsts] == [3, 4]


@pytest.mark.parametrize("died", [-3600, 2])
def test_nobody_died_before_it_was_there(died: float) -> None:
    """A time of death from before the start, or from before the last step, is that of another clock: it is not told."""
    run = Run()
    agent = run.agent()
    run.start(1, agent, 0, range(2))
    run.steps(run.worker(0), range(6), 2, 1)
    run.failed(9, agent, 0, 0, signal="SIGKILL", alive_ns=ns(died), died_ns=ns(died))
    run.failed(9, agent, 0, 1, exit_code=1, died_ns=ns(8.5))
    run.tell(9, agent, "attempt.ended", attempt=0, outcome="failed")
    (attempt,) = told(run).attempts
    assert [worker.died_ns for worker in attempt.workers] == [None, ns(8.5)]


def test_who_called_for_an_exit_and_went_on_had_not_ended() -> None:
    """A script may catch its own `sys.exit(0)` behind the training, and evaluate: it was there as its peer failed."""
    run = Run()
    agent = run.agent()
    run.start(1, agent, 0, range(2))
    for rank in range(2):
        run.steps(run.worker(rank), range(3), 2, 1)
    run.tell(6, run.worker(1), "worker.exit", code=0, message="sys.exit(0)")
    run.metric(60, run.worker(1), "accuracy", 0.5)
    run.failed(90, agent, 0, 0, exit_code=1)
    run.tell(91, agent, "worker.succeeded", rank=1, local_rank=1, pid=101, attempt=0)
    run.tell(92, agent, "attempt.ended", attempt=0, outcome="failed")
    assert summary(told(run)).attempts[0].done_before == []


def test_whose_end_is_a_guess_is_not_first_by_it() -> None:
    """Killed in a long step, as a collector found much later: its own last record is no time by which another came after it."""
    run = Run()
    for rank in (0, 1):
        run.steps(run.worker(rank), range(3), 1 + 0.02 * rank, 60, ended=False)
    run.tell(150.3, run.worker(1), "worker.died", rank=1, pid=101, host="a")
    run.tell(155.4, run.worker(0), "worker.died", rank=0, pid=100, host="a")
    (alone,) = told(run).attempts
    for rank in (0, 1):
        run.steps(run.worker(rank, 1), range(2, 4), 170 + 0.02 * rank, 60)
    for attempt in (alone, told(run).attempts[0]):
        assert attempt.first_failure is None
        assert {worker.rank for worker in attempt.suspects} == {0, 1}


def static(run: Run, spans: list[tuple[float, float]], starts: float = 0.2, ahead: float = 0) -> None:
    """Record attempts of two static nodes; the second starts its first workers so much later, and has another clock."""
    for rank, host in enumerate("ab"):
        agent = run.agent(host, 10 + int(spans[0][0]))
        for own, (first, last) in enumerate(spans):
            begun, end = first + rank * ahead, last + rank * ahead
            begin = begun + rank * (0.2 if own else starts)
            who = run.worker(rank, own, host, pid=100 + rank + 10 * int(begun))
            sizes = {"world_size": 2, "group_world_size": 2, "group_rank": rank}
            run.tell(begin, agent, "attempt.started", attempt=own, round=None, **sizes)
            run.tell(begin, agent, "worker.started", attempt=own, rank=rank, local_rank=0, pid=who.pid)
            cut = run.steps(who, range(20), begin + 5, 1)
            run.tell(cut, who, "step.started", step=20)
            about = {"exit_code": 1} if rank else {"signal": "SIGKILL"}
            seen = {"died_ns": ns(end + rank), "alive_ns": ns(end + rank - 0.1)}
            run.failed(end + rank + 0.1, agent, own, rank, **{"local_rank": 0, **seen, **about})
            run.tell(end + rank + 0.2, agent, "attempt.ended", attempt=own, outcome="failed")
        run.tell(end + rank + 0.3, agent, "job.failed", reason="workers failed", restarts=len(spans) - 1)


@pytest.mark.parametrize(("later", "told_first"), [(2.9, None), (5, 0)])
def test_clocks_that_are_not_set_right_may_be_further_apart_than_they_seem(
    later: float, told_first: int | None
) -> None:
    """Three seconds apart, less than a start may take: who died first by 2.9 seconds died behind the other, by five before it."""
    run = Run()
    for rank, (host, begin, died) in enumerate((("a", 1, 30), ("b", 1 + 2.8, 30 + later))):
        agent, who = run.agent(host, 10), run.worker(rank, host=host)
        sizes = {"world_size": 2, "group_world_size": 2, "group_rank": rank}
        run.tell(begin, agent, "attempt.started", attempt=0, round=None, **sizes)
        run.tell(begin, agent, "worker.started", attempt=0, rank=rank, local_rank=0, pid=who.pid)
        run.failed(died + 0.1, agent, 0, rank, local_rank=0, exit_code=1, died_ns=ns(died), alive_ns=ns(died - 0.1))
        run.tell(died + 0.2, agent, "attempt.ended", attempt=0, outcome="failed")
    (attempt,) = told(run).attempts
    assert (attempt.first_failure and attempt.first_failure.rank) == told_first
    assert {worker.rank for worker in attempt.suspects} == (set() if attempt.first_failure else {0, 1})


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_node_that_starts_its_workers_late_has_no_other_clock(attempts: int) -> None:
    """Its disk was slow the first time. With the clock set right by that, who failed second would be told first."""
    run = Run()
    static(run, [(1 + 40 * own, 30 + 40 * own) for own in range(attempts)], starts=2.5)
    story = told(run)
    assert not any(clock.corrected for clock in summary(story).clocks)
    for attempt in story.attempts:
        assert attempt.first_failure is None
        assert {worker.rank for worker in attempt.suspects} == {0, 1}


def test_clocks_of_a_static_job_that_is_begun_anew() -> None:
    """With the same hosts, and the same id, each beginning is one moment; and each attempt has both nodes."""
    run = Run()
    for spans in ([(1, 30), (40, 70)], [(80, 110)]):
        static(run, spans, ahead=60)
    answer = summary(told(run))
    assert [(clock.host, round(clock.ahead_s)) for clock in answer.clocks if clock.corrected] == [("b", 60)]
    assert len(answer.attempts) == 3


def test_a_node_that_is_back_for_the_next_attempt_was_not_in_the_last_one() -> None:
    """Lost with its records, it waits until the other has seen that and is begun anew: its first attempt is that one's second."""
    run = Run()
    sizes = {"world_size": 2, "group_world_size": 2}
    for host, pid, born, begin, end in (("a", 10, 0, 1, 600), ("b", 10, 95, 606, 700), ("a", 11, 605, 606.1, 700.1)):
        agent, rank = run.agent(host, pid), int(host == "b")
        who = run.worker(rank, host=host, pid=100 + pid + rank)
        run.tell(born, agent, "job.started")
        run.tell(begin, agent, "attempt.started", attempt=0, round=None, group_rank=rank, **sizes)
        run.tell(begin, agent, "worker.started", attempt=0, rank=rank, local_rank=0, pid=who.pid)
        run.steps(who, range(3), begin + 1, 1)
        if end == 600:
            run.failed(end, agent, 0, 0, exit_code=1)
        outcome = "failed" if end == 600 else "succeeded"
        run.tell(end, agent, "attempt.ended", attempt=0, outcome=outcome)
        run.tell(end + 0.1, agent, f"job.{outcome}")
    answer = summary(told(run))
    assert (answer.outcome, answer.nodes_unread) == ("succeeded", 0)
    assert [len(attempt.nodes) for attempt in told(run).attempts] == [1, 2]


@pytest.mark.parametrize("behind", [0.3, 2.5])
def test_a_static_job_that_fails_at_once_each_time(behind: float) -> None:
    """Its attempts are shorter than what the second node is behind: they are joined by their number, the first one too."""
    run = Run()
    for rank, host in enumerate("ab"):
        agent, at = run.agent(host, 10 + rank), 1 + behind * rank
        run.tell(0.2 + 0.1 * rank, agent, "job.started")
        for own in range(4):
            sizes = {"world_size": 2, "group_world_size": 2, "group_rank": rank}
            pid = 100 + rank + 10 * own
            run.tell(at, agent, "attempt.started", attempt=own, round=None, **sizes)
            run.tell(at + 0.01, agent, "worker.started", attempt=own, rank=rank, local_rank=0, pid=pid)
            run.failed(at + 0.14, agent, own, rank, local_rank=0, exit_code=2)
            run.tell(at + 0.15, agent, "attempt.ended", attempt=own, outcome="failed")
            at += 0.2
        run.tell(at, agent, "job.failed", reason="workers failed", restarts=3)
    answer = summary(told(run))
    assert (len(answer.attempts), answer.restarts, answer.nodes_unread) == (4, 3, 0)


def test_a_node_that_is_back_for_a_restart_of_the_other_has_no_other_clock() -> None:
    """Lost with its records, it begins anew as the other restarts: its first attempt and that one's are no one moment."""
    run = Run()
    sizes = {"world_size": 2, "group_world_size": 2}
    for host, born, spans in (("a", 0, [(1, 600), (606, 700)]), ("b", 590, [(606.1, 700)])):
        agent, rank = run.agent(host, 10), int(host == "b")
        run.tell(born, agent, "job.started")
        for own, (begin, end) in enumerate(spans):
            who = run.worker(rank, own, host)
            run.tell(begin, agent, "attempt.started", attempt=own, round=None, group_rank=rank, **sizes)
            run.tell(begin, agent, "worker.started", attempt=own, rank=rank, local_rank=0, pid=who.pid)
            run.steps(who, range(3), begin + 1, 1)
            if end == 600:
                run.failed(end, agent, own, 0, exit_code=1)
            run.tell(end, agent, "attempt.ended", attempt=own, outcome="failed" if end == 600 else "succeeded")
        run.tell(700.1, agent, "job.succeeded")
    answer = summary(told(run))
    assert not any(clock.corrected for clock in answer.clocks)
    assert (answer.outcome, len(answer.attempts), answer.nodes_unread) == ("succeeded", 2, 0)


@pytest.mark.parametrize(("rank", "behind", "told"), [(None, 0.1, True), (1, 0.1, True), (None, 30, False)])
def test_an_exception_that_nobody_caught_where_no_agent_speaks(rank: int | None, behind: float, told: bool) -> None:
    """A plain script says itself what ended it; one that recorded on long afterwards was ended by something else, or not."""
    run = Run()
    who = replace(run.worker(rank), restart=None)
    end = run.steps(who, range(5), 0, 1)
    run.tell(end, who, "worker.exception", type="ValueError", message="bad batch", file="train.py", line=7)
    run.tell(end + behind, who, "saved")
    (story,) = build(run.records)
    (row,) = summary(story).attempts
    if not told:
        assert row.first_failure is None
        return
    assert row.first_failure is not None
    assert (row.first_failure.rank, row.first_failure.message) == (rank, "ValueError: bad batch")
    assert (row.first_failure.exit_code, row.first_failure.signal, row.outcome) == (None, None, "unknown")
    assert timeline(story).bands[0].cause.endswith(": ValueError")


@pytest.mark.parametrize("other", ["", "steps", "rank"])
def test_a_plain_script_that_failed_before_its_first_step(other: str) -> None:
    """It is the job's only worker, if nobody has a rank or marks steps; beside such it may be anything."""
    run = Run()
    who = replace(run.worker(None), restart=None)
    run.tell(1, who, "worker.exception", type="ModuleNotFoundError", message="No module named 'x'")
    if other:
        beside = replace(run.worker(0 if other == "rank" else None, pid=77), restart=None, process="4d-4d-x")
        run.tell(2, beside, "begins")
        if other == "steps":
            run.steps(beside, range(3), 2, 1)
    (story,) = build(run.records)
    (row,) = summary(story).attempts
    if other:
        assert row.first_failure is None
    else:
        assert row.first_failure is not None
        assert row.first_failure.message == "ModuleNotFoundError: No module named 'x'"
        assert goodput(story).ettr is None
