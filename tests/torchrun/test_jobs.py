"""Real jobs under torchrun, each told truly in the database."""

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from elastic_events.cli.run import torch_looks_for_plugins
from elastic_events.reading import summary
from elastic_events.reading.source import read_records
from tests.collector.programs import until
from tests.torchrun.jobs import (
    ASKED,
    LAUNCHER,
    START,
    TIMEOUT,
    Job,
    directories,
    environment,
    finish,
    free_port,
    needs_torch,
    ready,
    run,
    running,
)

pytestmark = [needs_torch, pytest.mark.timeout(2 * TIMEOUT)]

COUNT = "SELECT (SELECT count(*) FROM events) + (SELECT count(*) FROM rdzv_events) + (SELECT count(*) FROM metrics)"

FAILED = ["worker.failed", "worker.failed", "attempt.ended"]
DONE = ["worker.succeeded", "worker.succeeded", "attempt.ended", "job.succeeded"]


def test_a_job_that_succeeds_on_gloo(tmp_path: Path) -> None:
    """A job without a fault is told as such, torch's records and metrics beside it, in order of time."""
    job = run(tmp_path, "gloo")
    assert job.code == 0, job.output
    assert job.story() == [*START, *DONE]
    started = job.one("attempt.started")
    assert (started["attempt"], started["round"], started["world_size"], started["ranks"]) == (0, 0, 2, [0, 1])
    completed = job.one("rendezvous.completed")
    assert (completed["round"], completed["world_size"], completed["rank"]) == (0, 1, 0)
    assert completed["duration_ms"] > 0
    assert job.one("attempt.ended")["outcome"] == "succeeded"
    events = job.events("torchelastic.*")
    starts = ("START", "START") if torch_looks_for_plugins() else ()  # an older torch has none
    assert [event.name.rpartition(".")[2] for event in events] == [
        *("RENDEZVOUS", "ASSIGN_WORKER_RANKS", *starts, "SUCCEEDED", "SUCCEEDED", "SUCCEEDED")
    ]
    assert all(event.time_ns > 1e18 for event in events)
    assert [event.metadata["unpacked"]["local_rank"] for event in events[-3:-1]] == [0, 1]
    assert isinstance(events[2].metadata["metadata"], str)  # torch's own is kept beside
    assert job.rows("SELECT count(*) FROM rdzv_events WHERE message LIKE '%joined round 0%'") == [(1,)]
    assert job.rows("SELECT value FROM metrics WHERE name LIKE 'workers.%.run_total'") == [(1,)]
    ((ledger,),) = job.rows("SELECT ledger FROM ledgers")
    counts = json.loads(ledger)
    assert counts["accepted"] == counts["delivered"] == sum(job.rows(COUNT)[0])


def test_a_killed_worker_and_its_restart(tmp_path: Path) -> None:
    """The failure that a restart follows is told: who died first, of what, who was ended because of it (TORCH 2)."""
    job = run(tmp_path, "killed-once", "--max-restarts=2")
    assert job.code == 0, job.output
    assert job.story() == [*START, *FAILED, *START[1:], *DONE]
    first, victim = (event.metadata for event in job.events("worker.failed"))
    assert (first["rank"], first["signal"], first["exit_code"], first["first"], first["victim"]) == (
        *(1, "SIGKILL", None),
        *(True, False),
    )
    assert (victim["rank"], victim["signal"], victim["first"], victim["victim"]) == (0, "SIGTERM", False, True)
    assert first["attempt"] == victim["attempt"] == 0
    assert [event.metadata["round"] for event in job.events("attempt.started")] == [0, 1]
    assert [event.metadata["outcome"] for event in job.events("attempt.ended")] == ["failed", "succeeded"]
    assert job.one("job.succeeded")["restarts"] == 1
    assert not job.events("membership.changed")


def test_workers_that_die_before_anybody_looked(tmp_path: Path) -> None:
    """Which of them was first nobody saw; that none of them recorded anything is said, since only its stderr tells more."""
    script = tmp_path / "train.py"
    script.write_text("def train(:\n")
    asked = [*ASKED, "--standalone", "--nproc-per-node=2", str(script)]
    job = finish([sys.executable, *LAUNCHER, *asked], tmp_path, environment(TMPDIR=str(tmp_path)))
    (row,) = summary(job.database).attempts
    assert (row.first_failure, row.failed, row.consequences) == (None, 2, 0)
    assert [(one.rank, one.exit_code, one.recorded) for one in row.suspects] == [(0, 1, False), (1, 1, False)]


def test_a_job_that_always_fails(tmp_path: Path) -> None:
    """A job whose workers failed is failed, although the agent's own event says SUCCEEDED."""
    job = run(tmp_path, "exit", "--max-restarts=1")
    assert job.code == 1
    assert [event.metadata["outcome"] for event in job.events("attempt.ended")] == ["failed", "failed"]
    failures = [event.metadata for event in job.events("worker.failed") if event.metadata["first"]]
    assert [(failure["rank"], failure["exit_code"], failure["attempt"]) for failure in failures] == [
        (1, 3, 0),
        (1, 3, 1),
    ]
    assert job.story()[-1] == "job.failed"
    assert job.events("torchelastic.*.SUCCEEDED")[-1].source == "AGENT"


@pytest.mark.slow
def test_a_segfault(tmp_path: Path) -> None:
    """A crash in native code is told by its signal's name."""
    job = run(tmp_path, "segfault")
    assert job.code == 1
    first, _victim = job.events("worker.failed")
    assert (first.metadata["rank"], first.metadata["signal"], first.metadata["first"]) == (1, "SIGSEGV", True)


@pytest.mark.slow
def test_the_message_of_the_error_file(tmp_path: Path) -> None:
    """An exception that torch's decorator wrote down gives its message to the failure."""
    job = run(tmp_path, "raises")
    assert job.code == 1
    first, _victim = job.events("worker.failed")
    assert (first.metadata["rank"], first.metadata["exit_code"]) == (1, 1)
    assert first.metadata["message"] == "ValueError: the loss is no number"


def test_a_job_stopped_by_sigterm(tmp_path: Path) -> None:
    """A SIGTERM to the agent is told as what stopped the job, and its workers as victims."""
    with running(tmp_path, "waits") as agent:
        ready(agent, 2)
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(30) != 0
    job = Job(0, "", tmp_path)
    assert job.one("attempt.ended")["outcome"] == "stopped"
    assert job.one("job.failed")["signal"] == "SIGTERM"
    failures = [event.metadata for event in job.events("worker.failed")]
    assert [(failure["victim"], failure["first"]) for failure in failures] == [(True, False)] * 2


@pytest.mark.slow
def test_a_late_joiner(tmp_path: Path) -> None:
    """A second agent that joins changes the membership: counted, with the world before and after, no failure."""
    endpoint = f"--rdzv-endpoint=localhost:{free_port()}"
    more = (endpoint, "--rdzv-conf=last_call_timeout=1", "--local-addr=localhost")
    options = {"nodes": "1:2", "processes": 1, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    sink = {"ELASTIC_EVENTS_SINKS": "sqlite:///job.db"}
    with running(tmp_path, "grows", *more, **options, **sink) as host:
        ready(host, 1)
        with running(tmp_path, "grows", *more, **options, **sink) as joiner:
            assert host.wait(80) == 0
            assert joiner.wait(30) == 0
            pid = host.pid
    job = Job(0, "", tmp_path)
    (process,) = job.rows(f"SELECT context FROM contexts WHERE pid = {pid}")
    names = job.rows(f"SELECT name FROM events WHERE context = {process[0]} AND name GLOB '*.*' ORDER BY seq")
    story = [name for (name,) in names if name.startswith(("attempt.", "membership.", "job."))]
    assert story == [
        *("job.started", "attempt.started", "attempt.ended", "membership.changed", "attempt.started"),
        *("attempt.ended", "job.succeeded"),
    ]
    changed = job.one("membership.changed")
    assert (changed["count"], changed["world_size_before"], changed["world_size"]) == (1, 1, 2)
    assert not job.events("worker.failed")


def test_the_default_database_is_named_by_the_run(tmp_path: Path) -> None:
    """Asked for by nothing but the launcher's variable, the plug-in writes elastic-events-RUN.db; the flag is not needed."""
    job = run(tmp_path, "ok", flag=False, ELASTIC_EVENTS_TORCHRUN="1")
    assert job.code == 0
    assert job.database.name == "elastic-events-job.db"
    assert job.story() == [*START, *DONE]


def test_all_ticks_are_kept_when_asked_for(tmp_path: Path) -> None:
    """With ELASTIC_EVENTS_TICKS=all every look of the monitor at its workers is a metric, ten a second."""
    job = run(tmp_path, "pauses", ELASTIC_EVENTS_TICKS="all")
    assert job.code == 0, job.output
    looks = "SELECT count(*) FROM metrics WHERE name = 'LocalElasticAgent._monitor_workers.duration.ms'"
    assert job.rows(looks)[0][0] >= 8


def test_workers_join(tmp_path: Path) -> None:
    """What workers record themselves is in the same database, also of one that was killed a moment later."""
    job = run(tmp_path, "records", "--max-restarts=1", ELASTIC_EVENTS_TIMEOUT="10")
    assert job.code == 0, job.output
    assert sorted(event.rank for event in job.events("from.worker") if event.rank is not None) == [0, 0, 1, 1]
    assert not directories(tmp_path), "recorders are left"
    assert sorted(job.rows("SELECT value FROM metrics WHERE name = 'loss'")) == [(0.5,), (0.5,), (1.5,), (1.5,)]


def test_a_script_with_a_sink_of_its_own(tmp_path: Path) -> None:
    """What a worker records that starts a sink itself is in that sink, which has nobody else's, and in the job's database."""
    job = run(tmp_path, "sinks")
    assert job.code == 0, job.output
    steps = "SELECT rank, count(*) FROM events JOIN contexts USING (context) WHERE name = 'step.ended' GROUP BY rank"
    assert sorted(job.rows(steps)) == [(0, 3), (1, 3)]
    for rank in range(2):
        records = [record for record in read_records(tmp_path / f"own-{rank}.jsonl") if record.kind == "event"]
        assert [record.context.rank for record in records if record.name == "step.ended"] == [rank] * 3
        assert {record.context.rank for record in records} == {rank}


def test_an_agent_that_is_killed(tmp_path: Path) -> None:
    """What it recorded arrives with nobody doing anything, and its death, and what the workers it leaves record (TORCH 6)."""
    with running(tmp_path, "outlives") as agent:
        workers = ready(agent, 2)
        os.kill(agent.pid, signal.SIGKILL)
        agent.wait()
        job = Job(0, "", tmp_path)
        try:
            until(lambda: job.has("agent.died"), TIMEOUT)
            assert job.one("agent.died")["pid"] == agent.pid
            assert job.story()[:4] == START
            assert all(Path(f"/proc/{pid}").exists() for pid in workers)  # torch leaves them running
        finally:
            (tmp_path / "go").touch()
        until(lambda: not directories(tmp_path), TIMEOUT)
    assert sorted(event.rank for event in job.events("from.survivor") if event.rank is not None) == [0, 1]
    assert not job.events("worker.died")
    assert len(job.rows("SELECT ledger FROM ledgers")) == 1


@pytest.mark.skipif(not torch_looks_for_plugins(), reason="an older torch's watchdog leaves the agent alive")
def test_the_watchdogs_last_words(tmp_path: Path) -> None:
    """What torch's watchdog records before it kills the agent is delivered by the collector (TORCH 6)."""
    with running(tmp_path, "hangs", TORCHELASTIC_ENABLE_FILE_TIMER="1") as agent:
        workers = ready(agent, 2)
        assert agent.wait(TIMEOUT) == -signal.SIGKILL
        for pid in workers:
            with suppress(ProcessLookupError):  # the watchdog's own victim
                os.kill(pid, signal.SIGKILL)
        until(lambda: not directories(tmp_path), TIMEOUT)
    job = Job(0, "", tmp_path)
    killed, expired = job.one("kill worker process"), job.one("timer expired")
    assert expired["unpacked"]["watchdog_event"] == "timer expired"
    assert int(killed["unpacked"]["worker_pid"]) in workers
    assert job.events("agent.died")


def test_the_time_of_death_is_that_of_the_death(tmp_path: Path) -> None:
    """A peer that takes three seconds to end delays the record of a failure, but not the time of death that it tells."""
    job = run(tmp_path, "lingers")
    assert job.code == 1
    killed, peer = sorted(job.events("worker.failed"), key=lambda event: event.metadata["died_ns"])
    assert (killed.metadata["rank"], killed.metadata["signal"], killed.metadata["first"]) == (1, "SIGKILL", True)
    assert killed.metadata["died_ns"] >= int((tmp_path / "died").read_text())
    assert peer.metadata["died_ns"] - killed.metadata["died_ns"] > 2.5e9
    assert killed.time_ns - killed.metadata["died_ns"] > 2.5e9
