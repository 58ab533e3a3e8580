"""Stories that the generator found, with what single lost records had made of them: what they said is unknown now."""

import pytest
from msgspec.structs import replace

from elastic_events.bus.context import Context
from elastic_events.reading.buckets import goodput
from elastic_events.reading.builder import build
from elastic_events.reading.story import Story
from tests.reading.runs import START, Run


class Lossy(Run):
    """A run whose records are written out one by one: what is not written is lost."""

    ahead = 0.0  #: seconds, of the clock of host b

    def agent_of(self, at: float, host: str, name: str, **facts: object) -> None:
        """Record what the agent of a host says."""
        ahead = self.ahead if host == "b" else 0.0
        died = {"died_ns": START + round((facts.pop("died") + ahead) * 1e9)} if "died" in facts else {}  # type: ignore[operator]
        self.tell(at + ahead, self.agent(host), name, **facts, **died)

    def started(self, at: float, host: str, number: int, nodes: int, *ranks: int, **facts: object) -> None:
        """Record an attempt and its workers, whose pids are 100, ten times the attempt, and the rank."""
        self.agent_of(at, host, "attempt.started", attempt=number, round=number, group_world_size=nodes, **facts)
        self.workers(at, host, number, *ranks)

    def workers(self, at: float, host: str, number: int, *ranks: int) -> None:
        """Record the workers of an attempt."""
        for rank in ranks:
            pid = 100 + 10 * number + rank
            self.agent_of(at, host, "worker.started", attempt=number, rank=rank, local_rank=0, pid=pid)

    def died(self, at: float, host: str, number: int, rank: int, died: float, **facts: object) -> None:
        """Record a worker's failure, which its agent tells at `at`."""
        about = {"attempt": number, "rank": rank, "pid": 100 + 10 * number + rank, "first": True, "victim": False}
        self.agent_of(at, host, "worker.failed", died=died, **{**about, **facts})

    def ended(self, at: float, host: str, number: int, outcome: str) -> None:
        """Record the end of an attempt on a host."""
        self.agent_of(at, host, "attempt.ended", attempt=number, outcome=outcome)

    def told(self) -> Story:
        """The one story of these records."""
        (story,) = build(self.records)
        return story


def two_nodes(ahead: float = 0.0) -> Lossy:
    """Two nodes of a rank each, in their first attempt."""
    run = Lossy()
    run.ahead = ahead
    for rank, host in enumerate("ab"):
        run.agent_of(0, host, "job.started")
        about = {"round": 0, "world_size": 2, "rank": rank, "duration_ms": 500.0}
        run.agent_of(1, host, "rendezvous.completed", **about)
        run.started(1, host, 0, 2, rank, world_size=2)
    return run


def test_a_node_may_have_gone_after_what_failed_on_another() -> None:
    """A crash within the error of the clocks before a node fell silent may be the first, or follow from that: unknown."""
    run = two_nodes(ahead=60)
    run.died(5.4, "a", 0, 0, 5.2, signal="SIGABRT")
    run.ended(5.5, "a", 0, "failed")
    run.agent_of(6, "a", "job.failed", reason="workers failed")
    run.died(5.3, "b", 0, 1, 5.25, exit_code=1)  # and its job.failed is lost, so that b is silent
    (attempt,) = run.told().attempts
    assert attempt.first_failure is None
    assert {worker.rank for worker in attempt.suspects} == {0, 1}


def test_a_stop_is_a_cause_although_nobody_is_known_to_have_gone_on() -> None:
    """Who broke after a node had been stopped is not the first, also where the records end before anybody goes on."""
    run = two_nodes()
    run.died(5.4, "a", 0, 0, 5.2, signal="SIGTERM", first=False, victim=True)
    run.ended(5.4, "a", 0, "stopped")
    run.agent_of(5.5, "a", "job.failed", reason="SignalException", signal="SIGTERM")
    run.died(9.4, "b", 0, 1, 5.3, exit_code=1)
    (attempt,) = run.told().attempts
    assert (attempt.first_failure, attempt.suspects) == (None, [])


def test_a_node_that_told_a_failure_and_then_fell_silent() -> None:
    """An attempt that one node calls failed has failed, also where no more was read of it and the others saw members change."""
    run = two_nodes()
    run.died(5.4, "a", 0, 0, 5.2, signal="SIGABRT")
    run.ended(5.5, "a", 0, "failed")
    run.ended(5.5, "b", 0, "membership")
    run.agent_of(8, "b", "rendezvous.completed", round=1, world_size=2, rank=1, duration_ms=500.0)
    run.started(8, "b", 1, 2, 1, world_size=2)
    run.died(12, "b", 1, 1, 11.5, signal="SIGABRT")
    run.ended(12, "b", 1, "failed")
    run.agent_of(15, "b", "job.failed", reason="workers failed")
    assert [attempt.outcome for attempt in run.told().attempts] == ["failed", "failed"]


def test_where_rank_1_was_there_was_a_rank_0() -> None:
    """With the start of an attempt lost, a rank that is missing shows that not all nodes were read."""
    run = Lossy()
    run.agent_of(0, "b", "job.started")
    run.workers(1, "b", 0, 1)
    run.died(5, "b", 0, 1, 4.5, exit_code=1)
    run.ended(5, "b", 0, "failed")
    (attempt,) = run.told().attempts
    assert (attempt.first_failure, attempt.unread) == (None, 1)


def test_a_clock_that_nothing_compares_does_not_make_an_attempt_the_last() -> None:
    """What became of one node, all of whose rendezvous are lost, is not what became of the job, whatever its clock says."""
    run = Lossy()
    run.agent_of(0, "a", "job.started")
    run.started(1, "a", 0, 1, 0, world_size=1)
    run.ended(9, "a", 0, "succeeded")
    run.agent_of(9, "a", "job.succeeded")
    run.ahead = 60
    run.agent_of(0, "b", "job.started")
    run.workers(1, "b", 0, 1)
    run.died(5.4, "b", 0, 1, 5.2, signal="SIGTERM", first=False, victim=True)
    run.ended(5.4, "b", 0, "stopped")
    run.agent_of(5.5, "b", "job.failed", reason="SignalException", signal="SIGTERM")
    assert run.told().outcome == "unknown"


def test_a_word_on_a_death_is_no_sign_of_life() -> None:
    """A process of which only its death was recorded may have died long before that was noticed: nobody else is the first."""
    run = two_nodes()
    run.tell(5.3, run.worker(1, 0, "b", 101), "worker.died", pid=101, host="b", rank=1)
    run.died(5.6, "a", 0, 0, 5.2, exit_code=1)
    run.ended(5.7, "a", 0, "failed")
    (attempt,) = run.told().attempts
    assert attempt.first_failure is None
    assert [worker.rank for worker in attempt.suspects] == [0]


def test_a_rank_that_has_its_process_has_no_second_one() -> None:
    """Where the end of an attempt and the start of the next are lost, and the next one's word on its worker as well."""
    run = Lossy()
    run.agent_of(0, "a", "job.started")
    run.started(1, "a", 0, 1, 0, world_size=1)
    run.steps(run.worker(0, 0, "a", 100), range(3), 2, 1)
    run.died(5, "a", 0, 0, 4.9, signal="SIGKILL")
    run.agent_of(7, "a", "rendezvous.completed", round=1, world_size=1, rank=0, duration_ms=500.0)
    run.steps(run.worker(0, 1, "a", 110), range(3), 9, 1)
    run.ended(13, "a", 1, "failed")
    told = [[worker.pid for worker in attempt.workers] for attempt in run.told().attempts]
    assert told == [[100], [110]]


def test_programs_beside_an_attempt_are_of_none_before_it() -> None:
    """Two that evaluate, one after the other, without a rank: that the attempt has the first leaves the second in it."""
    run = Lossy()
    run.agent_of(0, "a", "job.started")
    run.started(0.5, "a", 0, 1, 0, world_size=1)
    run.steps(run.worker(0, 0, "a", 100), range(10), 1, 1)
    run.ended(11, "a", 0, "failed")
    run.started(14, "a", 1, 1, 0, world_size=1)
    run.steps(run.worker(0, 1, "a", 110), range(5, 45), 15, 1)
    for number in range(2):
        run.steps(script(run, 500 + number, "c"), range(4), 20 + 10 * number, 0.5)
    run.ended(55, "a", 1, "succeeded")
    told = [[worker.pid for worker in attempt.workers] for attempt in run.told().attempts]
    assert told == [[100], [110, 500, 501]]


def test_a_process_is_not_of_an_attempt_that_was_over() -> None:
    """Where the start of an attempt and of its workers is lost, its processes are not taken for those of the one before."""
    run = Lossy()
    run.agent_of(0, "a", "job.started")
    run.started(1, "a", 0, 1, 0, world_size=1)
    run.ended(5, "a", 0, "failed")
    run.agent_of(8, "a", "rendezvous.completed", round=1, world_size=1, rank=0, duration_ms=500.0)
    run.steps(run.worker(0, 1, "a", 110), range(3), 9, 0.5)
    run.tell(11, run.worker(0, 1, "a", 110), "worker.died", pid=110, host="a", rank=0)
    run.ended(11, "a", 1, "failed")
    run.started(14, "a", 2, 1, 0, world_size=1)
    run.tell(19, run.worker(0, 2, "a", 120), "worker.died", pid=120, host="a", rank=0)
    run.ended(19, "a", 2, "succeeded")
    told = [{worker.pid for worker in attempt.workers} for attempt in run.told().attempts]
    assert sorted(map(sorted, told)) == [[100], [110], [120]]  # type: ignore[type-var]


def test_an_attempt_of_which_no_agent_s_record_is_left() -> None:
    """Steps after the end of an attempt, and before the next began, are of one that nobody told of."""
    run = Lossy()
    run.started(1, "a", 0, 1, 0, world_size=1)
    run.ended(5, "a", 0, "failed")
    run.steps(run.worker(0, 1, "a", 110), range(3), 9, 0.5)
    run.started(14, "a", 2, 1, 0, world_size=1)
    told = [(attempt.outcome, {worker.pid for worker in attempt.workers}) for attempt in run.told().attempts]
    assert told == [("failed", {100}), ("unknown", {110}), ("unknown", {120})]


def test_an_agent_whose_first_record_is_late_is_no_other_job() -> None:
    """An agent of which only the last words are left was in the attempt of its own number, as what it lost says nothing else."""
    run = Lossy()
    run.agent_of(0, "b", "job.started")
    run.agent_of(1, "b", "rendezvous.completed", round=0, world_size=2, rank=1, duration_ms=500.0)
    run.started(1, "b", 0, 2, 1, world_size=2)
    run.ended(5, "b", 0, "failed")
    run.died(5.1, "a", 0, 0, 4.9, exit_code=1)
    run.agent_of(5.4, "a", "job.failed", reason="workers failed")
    (attempt,) = run.told().attempts
    assert [node.host for node in attempt.nodes] == ["b", "a"]


@pytest.mark.parametrize(
    ("by", "died", "told"),
    [(60, 6.0, 6.0), (-60, 6.0, 6.0), (2, 6.0, None), (60, 66.2, 6.2)],
    ids=["far forward", "back", "either", "seen by the new one"],
)
def test_a_death_seen_before_the_clock_was_set(by: float, died: float, told: float | None) -> None:
    """An agent's clock is set between a death and the agent's word on it: the death has the time of the clock it was seen by;
    where it may have been either, its time is unknown."""
    run = Run()
    agent = run.agent()
    run.start(1, agent, 0, range(1))
    run.failed(6.3, agent, 0, 0, signal="SIGKILL", died_ns=START + round(died * 1e9))
    run.tell(6.4, agent, "attempt.ended", attempt=0, outcome="failed")
    for at in (-1, -2):
        run.records[at] = replace(run.records[at], time_ns=run.records[at].time_ns + by * 10**9)
    (story,) = build(run.records)
    (worker,) = story.attempts[0].workers
    assert worker.died_ns == (None if told is None else START + round(told * 1e9))
    assert worker.ended_ns == START + round((6.3 if told is None else told) * 1e9)


def test_a_death_on_one_of_two_hosts_without_agents() -> None:
    """The worker of the other host, of which nobody tells the end, may have failed before: the first is unknown."""
    run = Run()
    workers = [run.worker(rank, host=host) for rank, host in enumerate("ab")]
    for who in workers:
        run.steps(who, range(3), 0, 1)
    run.tell(6, run.agent("c", 99), "worker.died", rank=1, pid=101, host="b", signal="SIGKILL")
    (story,) = build(run.records)
    assert story.attempts[0].first_failure is None
    assert [worker.rank for worker in story.attempts[0].suspects] == [1]
    run.steps(workers[0], range(3, 8), 3, 1)
    (story,) = build(run.records)
    assert story.attempts[0].first_failure is None  # nor are their clocks known to agree


@pytest.mark.parametrize("agents", [True, False])
def test_who_was_found_dead_when_the_job_was_begun_anew_had_died_long_before(agents: bool) -> None:
    """A job that was killed whole, and begun anew an hour later, ended with its last record: not when its dead were found."""
    run = Run()
    for restart, begin in enumerate((0, 3600)):
        agent = run.agent(pid=10 + restart)
        if agents:
            run.tell(begin, agent, "job.started")
            run.start(begin + 1, agent, 0, range(2), restart=restart, round=0)
        for rank in range(2):
            run.steps(run.worker(rank, restart), range(4), begin + 2, 1, ended=False)
    for who in ([run.agent()] if agents else []) + [run.worker(rank) for rank in range(2)]:
        run.tell(
            3599, who, "worker.died" if who.rank is not None else "agent.died", pid=who.pid, host="a", rank=who.rank
        )
    (story,) = build(run.records)
    ends = [worker.ended_ns for worker in story.attempts[0].workers]
    assert [end is not None and (end - START) / 1e9 for end in ends] == [5, 5]


def test_of_those_that_left_no_word_of_their_own_none_is_told_first() -> None:
    """A launcher kills the others of one that is gone, and the collector finds all in one look, in any order."""
    run = Run()
    for rank in range(2):
        run.tell(6 + 0.002 * rank, run.worker(rank), "worker.died", rank=rank, pid=100 + rank, host="a")
    (story,) = build(run.records)
    assert story.attempts[0].first_failure is None
    assert [worker.rank for worker in story.attempts[0].suspects] == [0, 1]


@pytest.mark.parametrize("hosts", ["aa", "ab"])
@pytest.mark.parametrize("missing", [0, 1, 2])
def test_without_an_agent_a_rank_may_have_left_nothing_of_a_life(missing: int, hosts: str) -> None:
    """It failed before it recorded: its other lives are of the attempts in which those of its peers began."""
    run = Run()
    for life in range(3):
        for rank in range(2):
            who = run.worker(rank, host=hosts[rank], pid=100 + 10 * life + rank)
            who = replace(who, restart=None, process=f"{who.pid:x}-{who.pid:x}-x")
            if (rank, life) != (0, missing):
                run.steps(who, range(4 * life, 4 * life + 4), 100 * life + 0.1 * rank, 1)
    (story,) = build(run.records)
    ranks = [[worker.rank for worker in attempt.workers] for attempt in story.attempts]
    assert ranks == [[1] if life == missing else [0, 1] for life in range(3)]
    assert goodput(story).steps_redone == 0


def test_of_which_life_one_was_that_left_no_word_of_its_own_its_death_does_not_tell() -> None:
    """It was found dead as its attempt ended, beside the begin of one that it was not in: it is no failure of that one."""
    run = Run()
    for life in range(2):
        for rank in (0, 2):
            who = replace(run.worker(rank, pid=100 + 10 * life + rank), restart=None)
            run.steps(who, range(4 * life, 4 * life + 4), 101 * life + 0.1 * rank, 24)
    died = replace(run.worker(1, pid=101), restart=None)
    run.tell(97, died, "worker.died", rank=1, pid=101, host="a", signal="SIGKILL")
    (story,) = build(run.records)
    assert [sorted(worker.rank or 0 for worker in attempt.workers) for attempt in story.attempts] == [[0, 1, 2], [0, 2]]
    assert [attempt.first_failure for attempt in story.attempts] == [None, None]


@pytest.mark.parametrize("again", [3, 0], ids=["goes on", "begins anew"])
def test_a_plain_script_that_is_run_again(again: int) -> None:
    """Without a rank, too, it is one rank with two attempts: of steps from the first on nobody knows whose they are."""
    run = Run()
    for life, numbers in enumerate((range(5), range(again, 8))):
        who = replace(run.worker(None, pid=100 + life), restart=None, process=f"{100 + life}-1f-{life}")
        run.steps(who, numbers, 100 * life, 1)
        if not again:
            run.steps(who, range(2), 100 * life + 50, 1)  # each evaluates
    (story,) = build(run.records)
    assert [len(attempt.workers) for attempt in story.attempts] == [1, 1]
    found = goodput(story)
    assert (found.steps, found.steps_redone) == ((8, 2) if again else (None, None))
    seconds = {bucket.name: bucket.seconds for bucket in found.buckets}
    assert (seconds["lost"], seconds.get("unknown", 0)) == ((2, 0) if again else (0, 7))
    assert bool(story.attempts[1].unsure) is not bool(again)


def script(run: Run, pid: int, host: str = "a") -> Context:
    """Return the context of a program without a rank."""
    return replace(run.worker(None, pid=pid, host=host), restart=None, process=f"{pid:x}-{pid:x}-{host}")


@pytest.mark.parametrize("hosts", ["aa", "ab"])
def test_a_plain_script_that_fails_again_before_its_first_step(hosts: str) -> None:
    """Each time is an attempt, with what ended it."""
    run = Run()
    for life, (kind, host) in enumerate(zip(("ValueError", "KeyError"), hosts, strict=True)):
        who = script(run, 60 + life, host)
        run.tell(600 * life, who, "begins")
        run.tell(600 * life + 1, who, "worker.exception", type=kind, message="bad")
    (story,) = build(run.records)
    failures = [attempt.first_failure for attempt in story.attempts]
    assert [failure.cause for failure in failures if failure is not None] == ["ValueError", "KeyError"]


@pytest.mark.parametrize("host", ["a", "b"])
@pytest.mark.parametrize(("begins", "steps"), [(10, 155), (40, 155), (70, 155), (95, 159)])
def test_a_script_that_evaluates_one_of_two_lives(begins: float, host: str, steps: int) -> None:
    """It is beside the life within which it began; where it goes on beside the next one, too, it takes back none of its steps."""
    run = Run()
    run.steps(script(run, 60), range(80), 0, 1)
    run.steps(script(run, 61), range(75, 155), 100, 1)
    run.steps(script(run, 70, host), range(5, 9), begins, 1 if begins < 75 else 2)
    (story,) = build(run.records)
    assert (goodput(story).steps, goodput(story).steps_redone) == (steps, 5)


@pytest.mark.parametrize("host", ["a", "b"])
@pytest.mark.parametrize(("lives", "length", "every"), [(6, 20, 20), (2, 100, 25)])
def test_a_script_that_makes_few_steps_beside_many_lives(host: str, lives: int, length: int, every: int) -> None:
    """However many it makes in all, each life is an attempt; and what it does beside later ones is not what these do again."""
    run = Run()
    for life in range(lives):
        run.steps(
            script(run, 60 + life), range((length - 3) * life, (length - 3) * life + length), (length + 5) * life, 1
        )
    beside = script(run, 500, host)
    for at in range((length + 5) * lives // every):
        run.steps(beside, range(at, at + 1), 1 + every * at, 0.2)
    (story,) = build(run.records)
    assert [sum(w.pid < 500 for w in attempt.workers if w.pid) for attempt in story.attempts] == [1] * lives
    assert (goodput(story).steps, goodput(story).steps_redone) == ((length - 3) * lives + 3, 3 * lives - 3)


def test_scripts_without_a_rank_that_run_together() -> None:
    """Two that run at once are two workers; one more beside them is a third, and two behind them are their second attempt."""
    run = Run()
    for at, (begin, first) in enumerate(((0, 0), (1, 0), (5, 0), (100, 6), (101, 6))):
        who = replace(run.worker(None, pid=100 + at), restart=None, process=f"{100 + at}-1f-{at}")
        run.steps(who, range(first, first + 6), begin, 1)
    (story,) = build(run.records)
    pids = [sorted(worker.pid or 0 for worker in attempt.workers) for attempt in story.attempts]
    assert pids == [[100, 101, 102], [103, 104]]
    assert goodput(story).steps_redone == 0


@pytest.mark.parametrize("hosts", ["abab", "abcd", "abbc", "abba", "abbaab", "abacab"])
def test_without_an_agent_a_job_may_be_begun_anew_on_other_hosts(hosts: str) -> None:
    """A batch system puts a rank where there is room: what it did again there was lost."""
    run = Run()
    for life, numbers in enumerate((range(10), range(5, 20), range(15, 30))[: len(hosts) // 2]):
        for rank in range(2):
            host, pid = hosts[2 * life + rank], 100 + 2 * life + rank
            who = replace(run.worker(rank, host=host, pid=pid), restart=None, process=f"{pid:x}-{pid:x}-x")
            run.steps(who, numbers, 60 * life + 0.01 * rank, 1)
    (story,) = build(run.records)
    assert [[(w.rank, w.host) for w in attempt.workers] for attempt in story.attempts] == [
        [(0, hosts[at]), (1, hosts[at + 1])] for at in range(0, len(hosts), 2)
    ]
    lives = len(hosts) // 2
    assert (goodput(story).steps, goodput(story).steps_redone) == (10 * lives, 5 * lives - 5)


def test_scripts_of_two_hosts_that_are_each_run_again() -> None:
    """Each host has a loop of its own: the second begins anew before the first one's second is over, and behind its first."""
    run = Run()
    for at, host in enumerate("ab"):
        for life, numbers in enumerate((range(20), range(15, 40))):
            pid = 60 + at + 10 * life
            who = replace(run.worker(None, host=host, pid=pid), restart=None, process=f"{pid:x}-{pid:x}-{host}")
            run.steps(who, numbers, 24 * life + 8 * at, 1)
    (story,) = build(run.records)
    assert [len(attempt.workers) for attempt in story.attempts] == [2, 2]
    assert (goodput(story).steps, goodput(story).steps_redone) == (40, 5)


@pytest.mark.parametrize("hosts", ["aa", "ab", "aba", "aab", "abc"])
def test_a_script_without_a_rank_may_be_begun_anew_on_another_host(hosts: str) -> None:
    """A batch system puts it where there is room, without a word on ranks."""
    run, begin = Run(), 0.0
    for life, host in enumerate(hosts):
        who = replace(
            run.worker(None, host=host, pid=60 + life), restart=None, process=f"{60 + life:x}-{life + 9:x}-{host}"
        )
        begin = 30 + run.steps(who, range(15 * life, 15 * life + 20), begin, 1)
    (story,) = build(run.records)
    assert [len(attempt.workers) for attempt in story.attempts] == [1] * len(hosts)
    found = goodput(story)
    assert (found.steps, found.steps_redone) == (15 * len(hosts) + 5, 5 * len(hosts) - 5)


@pytest.mark.parametrize("again", [False, True])
def test_scripts_that_evaluate_on_another_host(*, again: bool) -> None:
    """Without a rank, either, one after another beside the training: they begin no attempt, and take back none of its steps."""
    run = Run()
    for life in range(1 + again):
        who = replace(run.worker(None, pid=60 + life), restart=None, process=f"{60 + life:x}-{life + 9:x}-a")
        run.steps(who, range(100 * life, 100 * life + 100), 130 * life, 1)
    for number in range(3):
        who = replace(run.worker(None, host="b", pid=500 + number), restart=None, process=f"{500 + number:x}-1f-b")
        run.steps(who, range(5, 9), 20 + 20 * number, 1)
    (story,) = build(run.records)
    assert (len(story.attempts), goodput(story).steps, goodput(story).steps_redone) == (1 + again, 100 + 100 * again, 0)


@pytest.mark.parametrize("hosts", ["aab", "aaa", "baa"])
def test_a_script_that_evaluates_beside_one_training_after_another(hosts: str) -> None:
    """It goes on while the training begins anew, on its host or another."""
    run = Run()
    for life, host in enumerate(hosts[:2]):
        who = replace(run.worker(None, host=host, pid=60 + life), restart=None, process=f"{60 + life:x}-{life + 9:x}-a")
        run.steps(who, range(50 * life, 50 * life + 100), 120 * life, 1)
    beside = replace(run.worker(None, host=hosts[2], pid=500), restart=None, process="1f4-1f-b")
    for number in range(8):
        run.steps(beside, range(number, number + 1), 5 + 30 * number, 1)
    (story,) = build(run.records)
    assert [sum(w.pid < 500 for w in attempt.workers if w.pid) for attempt in story.attempts] == [1, 1]
    assert goodput(story).steps == 150


@pytest.mark.parametrize("hosts", ["aa", "ab", "aba"])
def test_ranks_that_another_process_of_theirs_starts(hosts: str) -> None:
    """A wrapper has their rank, records around them, and marks nothing: with each of them begins another attempt all the same."""
    run = Run()
    for life, host in enumerate(hosts):
        for rank in range(2):
            pids = (100 + 10 * life + 2 * rank, 101 + 10 * life + 2 * rank)
            around, who = (
                replace(run.worker(rank, host=host, pid=pid), restart=None, process=f"{pid:x}-{pid:x}-{host}")
                for pid in pids
            )
            run.tell(60 * life, around, "begins")
            run.steps(who, range(15 * life, 15 * life + 20), 60 * life + 1, 1)
            run.tell(60 * life + 25, around, "ends")
    (story,) = build(run.records)
    assert [[w.rank for w in attempt.workers] for attempt in story.attempts] == [[0, 1]] * len(hosts)
    found = goodput(story)
    assert (found.steps, found.steps_redone) == (15 * len(hosts) + 5, 5 * len(hosts) - 5)


@pytest.mark.parametrize("hosts", ["a", "b"])
def test_a_program_without_a_rank_beside_ranks_is_no_life_of_theirs(hosts: str) -> None:
    """Evaluations that run one after another while a job trains take back none of its steps."""
    run = Run()
    for rank in range(2):
        run.steps(replace(run.worker(rank), restart=None), range(100), 0, 1)
    for number in range(3):
        who = replace(run.worker(None, host=hosts, pid=500 + number), restart=None, process=f"{500 + number}-1f-x")
        run.steps(who, range(4), 20 + 20 * number, 1)
    (story,) = build(run.records)
    assert (len(story.attempts), goodput(story).steps, goodput(story).steps_redone) == (1, 100, 0)


@pytest.mark.parametrize(
    ("host", "first", "doubted"), [("b", 5, True), ("b", 0, True), ("a", 5, False), ("b", 95, False)]
)
def test_a_script_on_another_host_that_comes_no_further(host: str, first: int, *, doubted: bool) -> None:
    """Behind a training it may evaluate: nobody knows whether it did steps again. One that goes on beyond is that training."""
    run = Run()
    run.steps(replace(run.worker(None, pid=60), restart=None, process="3c-1-a"), range(100), 0, 1)
    who = replace(run.worker(None, host=host, pid=70), restart=None, process=f"46-99-{host}")
    run.steps(who, range(first, first + 10), 150, 1)
    (story,) = build(run.records)
    assert bool(story.attempts[1].unsure) is doubted
    assert (goodput(story).steps_redone is None) is doubted
