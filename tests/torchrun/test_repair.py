"""The repair alone, on streams that torch wrote, and the thinning of ticks."""

import json
from typing import Any

from elastic_events.bus.context import Context
from elastic_events.bus.record import Record, record_of
from elastic_events.torchrun import Exit, Fact, Repair, Ticks
from elastic_events.torchrun.messages import parse
from elastic_events.torchrun.repair import unpack
from tests.streams import load


def told(name: str) -> list[Fact]:
    """What follows from a captured stream alone, without the agent's own methods."""
    repair = Repair(parse)
    facts = []
    for record in load(name):
        if record.kind == "event":
            facts += repair.event(record.name, record.fields[0], record.fields[2])
        elif record.kind == "rdzv":
            facts += repair.rendezvous(record.fields[1])
    assert repair.unparsed == 0
    return facts


def names(facts: list[Fact]) -> list[str]:
    """The story without the steps of the rendezvous."""
    return [fact.name for fact in facts if not fact.name.startswith("rendezvous.")]


STARTED = ["attempt.started", "worker.started", "worker.started"]


def test_a_stream_of_a_good_run() -> None:
    """The records alone tell a run without a fault."""
    facts = told("run1_ok")
    assert names(facts) == [*STARTED, "worker.succeeded", "worker.succeeded", "attempt.ended", "job.succeeded"]


def test_a_stream_with_a_restart() -> None:
    """A restart that torch counts followed a failure, though no record says which worker failed."""
    facts = told("run2_fail_once")
    ends = [fact.metadata["outcome"] for fact in facts if fact.name == "attempt.ended"]
    assert ends == ["failed", "succeeded"]
    rounds = [fact.metadata["round"] for fact in facts if fact.name == "rendezvous.completed"]
    assert rounds == [0, 1]


def test_a_stream_of_a_failed_run() -> None:
    """A job that failed is failed although the agent's event says SUCCEEDED, and a SIGTERM is no cause (TORCH 2, 8)."""
    facts = told("run3_fail_always")
    assert facts[-1].name == "job.failed"
    failures = [fact.metadata for fact in facts if fact.name == "worker.failed"]
    assert [failure["first"] for failure in failures].count(True) == 1
    assert failures[0]["first"]
    assert failures[0]["signal"] != "SIGTERM"


def test_a_stream_without_rendezvous_events() -> None:
    """The static rendezvous says nothing of itself: its completion is told by what follows it."""
    facts = told("run4_static")
    assert [fact.metadata["round"] for fact in facts if fact.name == "rendezvous.completed"] == [None]


def test_a_membership_change() -> None:
    """A second start without a restart is a change of the membership (TORCH 4)."""
    (changed,) = [fact for fact in told("run8_scaleup_agentA") if fact.name == "membership.changed"]
    assert (changed.metadata["group_world_size_before"], changed.metadata["group_world_size"]) == (1, 2)
    assert (changed.metadata["world_size_before"], changed.metadata["world_size"]) == (2, 4)


def status(state: str, source: str = "AGENT", **metadata: Any) -> tuple[str, str, dict[str, Any]]:
    """Torch's status event."""
    return f"torchelastic.worker.status.{state}", source, metadata


def start(repair: Repair, ranks: int, restarts: int = 0) -> list[Fact]:
    """Start an attempt."""
    facts = []
    for rank in range(ranks):
        inner = json.dumps({"group_world_size": 1, "local_rank": [rank], "role_world_size": [ranks]})
        begin = status(
            "START", "WORKER", global_rank=rank, worker_id=str(100 + rank), metadata=inner, agent_restarts=restarts
        )
        facts += repair.event(*begin)
    return facts + repair.started()


def test_roles_are_parts_of_the_world() -> None:
    """The number of ranks is that of all roles, which the agent knows; torch's events tell that of the agent's own role."""
    repair = Repair()
    inner = json.dumps({"group_world_size": 2, "local_rank": [0], "role_world_size": [1]})
    repair.event(*status("START", "WORKER", global_rank=0, worker_id="7", metadata=inner, agent_restarts=0))
    seen = [({"global_rank": 0, "worker_id": 7}, {"local_rank": 0, "world_size": 3, "group_world_size": 2})]
    attempt, _ = repair.started(seen)
    assert attempt.metadata["world_size"] == 3


def test_starts_that_torch_does_not_tell() -> None:
    """Where torch has no START events the agent's own view gives the attempt; where it has, they are told once."""
    about = {"group_rank": 0, "agent_restarts": 0}
    detail = {"local_rank": 0, "role_world_size": 1, "group_world_size": 1}
    seen = [({**about, "global_rank": 0, "worker_id": 7}, detail)]
    again = [({**about, "agent_restarts": 1, "global_rank": 0, "worker_id": 8}, detail)]
    repair = Repair()
    assert [fact.name for fact in repair.started(seen)] == ["attempt.started", "worker.started"]
    ended, attempt, worker = repair.started(again)
    assert (ended.metadata["outcome"], attempt.metadata["attempt"], worker.metadata["pid"]) == ("failed", 1, 8)
    told = Repair()
    assert [fact.name for fact in start(told, 1)] == ["attempt.started", "worker.started"]
    assert told.started(seen) == []


def test_the_first_failure_is_the_earliest() -> None:
    """By time, then not the SIGTERM, never a victim; each rank once an attempt."""
    repair = Repair()
    start(repair, 4)
    exits = [Exit(0, -15, time=5, victim=True), Exit(1, -15, time=7), Exit(2, 9, time=7), Exit(3, -11, time=8)]
    failures = [fact.metadata for fact in repair.exited(exits, "failed") if fact.name == "worker.failed"]
    assert [(failure["rank"], failure["first"], failure["victim"]) for failure in failures] == [
        *((2, True, False), (1, False, False), (3, False, False), (0, False, True)),
    ]
    assert failures[2]["signal"] == "SIGSEGV"
    assert failures[0]["exit_code"] == 9
    assert failures[0]["pid"] == 102
    assert repair.exited(exits, "failed") == []


def test_a_graceful_exit_is_no_failure() -> None:
    """After SUCCEEDED torch records FAILED for an agent that left gracefully; neither is the job's outcome (TORCH 7)."""
    repair = Repair()
    start(repair, 1)
    facts = repair.exited([Exit(0, -15, victim=True)], "left")
    facts += repair.event(*status("SUCCEEDED"))
    facts += repair.event(*status("FAILED", raw_error="AttributeError: 'NoneType'"))
    assert [fact.name for fact in facts] == ["worker.failed", "attempt.ended", "agent.left"]


def test_an_agent_that_fails_in_its_rendezvous() -> None:
    """A rendezvous without a successor failed, and the job with the reason torch gives."""
    repair = Repair()
    facts = repair.event(*status("RENDEZVOUS", duration_ms=12.5))
    facts += repair.event(*status("FAILED", raw_error="Traceback\n  ...\nRendezvousTimeoutError: too late\n"))
    assert [fact.name for fact in facts] == ["rendezvous.failed", "job.failed"]
    assert facts[1].metadata["reason"] == "RendezvousTimeoutError: too late"


def test_a_message_that_is_not_understood_is_counted() -> None:
    """It is kept whole in torch's record, and the count says that there was one."""
    repair = Repair(parse)
    assert repair.rendezvous("The node sings.") == [Fact("rendezvous.unparsed", {"count": 1, "node": None})]
    assert repair.unparsed == 1


def test_unpacking_bears_anything() -> None:
    """JSON within JSON is opened where it is JSON, and nothing else happens where it is not."""
    assert unpack({"metadata": '{"local_rank": [3]}', "raw_error": '{"message": "m"}'}) == {
        "local_rank": 3,
        "error": {"message": "m"},
    }
    for text in ("{", "", None, 7, "[1]", "Traceback", "{" * 10_000):
        assert unpack({"metadata": text, "raw_error": text}) == {}


def point(name: str, value: Any, at: float) -> Record:
    """A metric point."""
    return record_of("metric", 0, 0, int(at * 1e9), name, "torchelastic", (value,), Context())


def test_ticks_are_thinned_to_changes_and_one_a_second() -> None:
    """A tick's metric passes when it changes and once a second; durations once a second; other metrics always."""
    ticks = Ticks()
    passed = [at for at in range(21) if ticks(point("workers.default.healthy", 1, at / 10))]
    assert passed == [0, 10, 20]
    assert ticks(point("workers.default.remaining_restarts", 3, 0.0))
    assert not ticks(point("workers.default.remaining_restarts", 3, 0.1))
    assert ticks(point("workers.default.remaining_restarts", 2, 0.2))
    spent = [at for at in range(21) if ticks(point("LocalElasticAgent._monitor_workers.duration.ms", at, at / 10))]
    assert spent == [0, 10, 20]
    assert all(ticks(point("workers.default.failed", 1, at)) for at in (0.0, 0.1))
    assert all(ticks(point("loss", 1, 0.0)) for _ in range(3))
