"""`elastic_events.torchrun` for people who write launchers, the adapter of torch.monitor, and the command."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.collector.programs import until
from tests.torchrun.jobs import (
    HERE,
    START,
    TIMEOUT,
    WORKER,
    Job,
    arguments,
    environment,
    looks_for_plugins,
    needs_torch,
)
from tests.torchrun.test_inert import DOOR

pytestmark = [needs_torch, pytest.mark.timeout(2 * TIMEOUT)]


def script(tmp_path: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` as a program of its own."""
    (tmp_path / "program.py").write_text(code)
    return subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env=environment(TMPDIR=str(tmp_path), PYTHONPATH=str(HERE.parents[1])),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def test_a_launcher_of_ones_own(tmp_path: Path) -> None:
    """`install(bus)` routes what `launch_agent` does to the bus of the launcher, and leaves torch as it was."""
    done = script(
        tmp_path,
        f"""
from torch.distributed.elastic import events, metrics
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import PContext
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from elastic_events import EventBus
from elastic_events.torchrun import Ticks, install

def state():
    return (events._get_or_create_logger, metrics.api._default_metrics_handler, dict(events.handlers._log_handlers),
            LocalElasticAgent.run, LocalElasticAgent._monitor_workers, PContext.close)

if __name__ == "__main__":
    before = state()
    with EventBus() as bus:
        bus.subscribe("sqlite:///run.db", where=Ticks())
        with install(bus):
            assert state() != before
            config = LaunchConfig(1, 1, 2, run_id="own", rdzv_backend="c10d", rdzv_endpoint="localhost:0", monitor_interval=0.1)
            elastic_launch(config, "{sys.executable}")("{WORKER}", "ok")
        assert state() == before
""",
    )
    assert done.returncode == 0, done.stderr
    assert Job(0, "", tmp_path).story() == [
        *(*START, "worker.succeeded", "worker.succeeded", "attempt.ended", "job.succeeded")
    ]


@looks_for_plugins
def test_a_program_that_names_the_handler(tmp_path: Path) -> None:
    """A program's `LaunchConfig(event_log_handler="elastic")`, without flag or variable, is one run from its first record."""
    done = script(
        tmp_path,
        f"""
import os, sys
from elastic_events import Event, record
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

if __name__ == "__main__":
    assert "elastic_events.torchrun.agent_recorder" not in sys.modules
    config = LaunchConfig(1, 1, 2, run_id="own", rdzv_backend="c10d", rdzv_endpoint="localhost:0", monitor_interval=0.1,
                          event_log_handler="elastic")
    elastic_launch(config, "{sys.executable}")("{WORKER}", "ok")
    record(Event("program.done", "WORKER"))
""",
    )
    assert (done.returncode, done.stderr) == (0, "")
    job = Job(0, "", tmp_path)
    until(lambda: job.has("program.done"))  # what the program records itself joins
    assert job.database.name == "elastic-events-own.db"
    assert job.rows("SELECT DISTINCT run_id FROM contexts") == [("own",)]
    assert job.story() == [*START, "worker.succeeded", "worker.succeeded", "attempt.ended", "job.succeeded"]
    assert job.one("rendezvous.completed")["round"] == 0
    assert job.rows("SELECT count(*) FROM rdzv_events WHERE message LIKE '%joined round 0%'") == [(1,)]


@looks_for_plugins
def test_a_program_that_names_another_handler_is_left_alone(tmp_path: Path) -> None:
    """A launcher in a process where the plug-in is installed and not asked for records nothing and imports nothing of it."""
    done = script(
        tmp_path,
        f"""
import os, sys
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

if __name__ == "__main__":
    config = LaunchConfig(1, 1, 1, run_id="own", rdzv_backend="c10d", rdzv_endpoint="localhost:0", monitor_interval=0.1)
    elastic_launch(config, "{sys.executable}")("-c", "pass")
    print(sorted(name for name in sys.modules if name.startswith(("elastic_events", "msgspec"))))
""",
    )
    assert (done.returncode, done.stderr) == (0, "")
    loaded = set(done.stdout.strip("[]\n").replace("'", "").split(", "))
    assert loaded - DOOR == {"elastic_events", "elastic_events.torchrun", "elastic_events.torchrun.plugin"}


def test_a_launcher_that_swaps_its_imports(tmp_path: Path) -> None:
    """With `install(bus)` a handler that was configured in place of torch's gets every point of the agent and of its subclass."""
    done = script(
        tmp_path,
        f"""
import elastic_metrics as metrics
from elastic_events import EventBus
from elastic_events.torchrun import install
from torch.distributed.elastic import metrics as theirs
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.launcher import api
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

class Kept(metrics.MetricHandler):
    def __init__(self):
        self.names = []
    def emit(self, data):
        self.names.append(data.name)

class Theirs(theirs.MetricHandler):
    names = []
    def emit(self, data):
        self.names.append(data.name)

class Agent(LocalElasticAgent):
    @metrics.prof
    def _monitor_workers(self, worker_group):
        return super()._monitor_workers(worker_group)

if __name__ == "__main__":
    kept = Kept()
    metrics.configure(kept)
    theirs.configure(Theirs())  # what torch's own agent puts, counted on another way
    api.LocalElasticAgent = Agent
    with EventBus("sqlite:///run.db") as bus, install(bus):
        config = LaunchConfig(1, 1, 1, run_id="own", rdzv_backend="c10d", rdzv_endpoint="localhost:0", monitor_interval=0.1)
        elastic_launch(config, "{sys.executable}")("-c", "pass")
    mine = [name for name in kept.names if name.startswith("Agent.")]
    assert len(mine) >= 2, kept.names
    assert len(Theirs.names) >= 16, Theirs.names
    assert sorted(kept.names) == sorted([*Theirs.names, *mine]), (kept.names, Theirs.names)
""",
    )
    assert done.returncode == 0, done.stderr
    assert Job(0, "", tmp_path).story()[-1] == "job.succeeded"


@pytest.mark.slow
@looks_for_plugins
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_functions_as_workers(method: str, tmp_path: Path) -> None:
    """A launcher that names the handler "elastic" asks for the plug-in by it; workers that are functions are told as well."""
    done = script(
        tmp_path,
        f"""
import time
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

def work():
    import os
    from torch.distributed.elastic import metrics
    metrics.put_metric("of.worker", 1)
    if os.environ["RANK"] == "1":
        raise ValueError("the loss is no number")
    time.sleep(60)

if __name__ == "__main__":
    config = LaunchConfig(
        1, 1, 2, run_id="own", rdzv_backend="c10d", rdzv_endpoint="localhost:0", monitor_interval=0.1, max_restarts=0,
        event_log_handler="elastic", start_method="{method}",
    )
    try:
        elastic_launch(config, work)()
    except ChildFailedError:
        print("failed, as it must")
""",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "failed, as it must\n"
    job = Job(0, "", tmp_path)
    assert job.database.name == "elastic-events-own.db"
    # A spawned worker that its agent ends leaves a recorder, as it is observed: its collector tells its death, too.
    story = [name for name in job.story() if name != "worker.died"]
    assert story == [*START, "worker.failed", "worker.failed", "attempt.ended", "job.failed"]
    first, victim = (event.metadata for event in job.events("worker.failed"))
    assert (first["rank"], first["exit_code"], first["first"]) == (1, 1, True)
    assert "the loss is no number" in first["message"]
    assert (victim["rank"], victim["victim"]) == (0, True)
    assert first["died_ns"] <= victim["died_ns"]
    # A forked worker has inherited torch's metrics as we changed them: they go where its own records go.
    ranks = "SELECT rank FROM metrics JOIN contexts USING (context) WHERE name = 'of.worker' ORDER BY rank"
    assert job.rows(ranks) == ([(0,), (1,)] if method == "fork" else [])
    # A forked worker has inherited torch's handler, which turns the agent's SIGTERM into an exception.
    assert (victim["signal"], victim["exit_code"]) == (("SIGTERM", None) if method == "spawn" else (None, 1))


def test_torchs_own_handlers_go_on(tmp_path: Path) -> None:
    """A console handler and a metric handler that were there before get what they got; levels of logging drop nothing of ours."""
    done = script(
        tmp_path,
        """
import logging, os
from torch.distributed.elastic import events, metrics
from torch.distributed.elastic.agent import server
os.environ["LOGLEVEL"] = "warning"  # torch raises on lower case, and drops its events at this level
from elastic_events import current_bus, testing
from elastic_events.torchrun import install

class Kept(metrics.MetricHandler):
    points = []
    def emit(self, data):
        self.points.append(data)

metrics.configure(Kept())
metrics.configure(Kept(), "mine")
logging.disable(logging.CRITICAL)
with testing.capture() as captured:
    with install(current_bus()):
        metrics.put_metric("a", 1)
        metrics.put_metric("b", 2, "mine")
        events.record(events.Event("e", events.EventSource.WORKER, metadata={"k": 1}))
        try:
            events.record(events.Event("e", events.EventSource.WORKER), "no such")
        except KeyError:
            print("KeyError, as with torch")
        os.environ["LOGLEVEL"] = "INFO"
        logging.disable(logging.NOTSET)
        events.record(events.Event("shown", events.EventSource.WORKER), "console")
    print([(point.name, point.group_name, point.value) for point in captured.metrics], len(Kept.points))
    print([event.name for event in captured.events])
""",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "KeyError, as with torch",
        "[('a', 'torchelastic', 1), ('b', 'mine', 2)] 2",
        "['e', 'shown']",
    ]
    assert '"name": "shown"' in done.stderr


def test_rendezvous_events_are_as_torch_makes_them(tmp_path: Path) -> None:
    """Our quick way to a rendezvous event gives what torch's own gives, but asks no name server for the host's name."""
    done = script(
        tmp_path,
        """
import os
from torch.distributed.elastic import events
from torch.distributed.elastic.rendezvous import dynamic_rendezvous
from elastic_events import current_bus, testing
from elastic_events.torchrun import install

theirs, name_of = events.construct_and_record_rdzv_event, dynamic_rendezvous.get_method_name
state = events.NodeState

class Node:
    def _record(self, name_of):
        return name_of()
    def joins(self, name_of):
        return self._record(name_of)

def calls(construct):
    construct("run", "said", state.RUNNING, hostname="h")
    construct("run", "said", state.INIT, "named", "h", 7, "end:1", 2, 3)
    construct(run_id="run", message="said", node_state=state.SUCCEEDED, hostname="h", pid=0, local_id=2, rank=0)
    construct("run", "said", state.FAILED, hostname="h")
    try:
        1 / 0
    except ArithmeticError:
        construct("run", "said", state.FAILED, hostname="h")

with testing.capture() as captured:
    with install(current_bus()):
        ours = events.construct_and_record_rdzv_event
        assert ours is not theirs
        calls(theirs)
        calls(ours)
        ours("run", "said", state.RUNNING)
        print(Node().joins(name_of), Node().joins(dynamic_rendezvous.get_method_name))
        ours("run", "said", state.RUNNING, no_such_argument=1)  # said once, and the job goes on
    made = [(record.name, *record.fields) for record in captured if record.kind == "rdzv"]
assert made[:5] == made[5:10], made
assert [name for name, *_ in made[:2]] == ["program.py:calls", "program.py:named"], made
assert "ZeroDivisionError" in made[4][-1]
assert os.uname().nodename in made[10]
print(len(made))
""",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["joins joins", "11"]
    assert done.stderr.count("no_such_argument") == 1


def test_torch_monitor(tmp_path: Path) -> None:
    """Events of torch.monitor become records; a bus that fails does not reach who logs; the interpreter ends in order."""
    done = script(
        tmp_path,
        """
import datetime
from torch import monitor
from elastic_events import current_bus, testing
from elastic_events.torchrun import torch_monitor

at = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
event = monitor.Event("tick", at, {"loss": 0.5, "step": 3, "who": "me"})
with testing.capture() as captured:
    end = torch_monitor(current_bus())
    monitor.log_event(event)
    end()
    monitor.log_event(event)
    print([(record.name, sorted(record.fields[2].items())) for record in captured], captured.events[0].timestamp > 0)

class Broken:
    def record(self, event):
        raise RuntimeError("broken")

torch_monitor(Broken())
monitor.log_event(event)
print("ends")
""",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[('tick', [('loss', 0.5), ('step', 3), ('who', 'me')])] True", "ends"]


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    """`elastic-events run -- torchrun ...` records without the flag, and ends with torchrun's exit code."""
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from elastic_events.cli import main; main()", "run"),
            *("--to", "sqlite:///named.db", "--run-id", "mine", "--"),
            *(sys.executable, "-m", "torch.distributed.run", *arguments("exit", folder=tmp_path)),
        ],
        cwd=tmp_path,
        env=environment(TMPDIR=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 1
    job = Job(1, "", tmp_path)
    assert job.database.name == "named.db"
    assert job.story()[-1] == "job.failed"
    assert job.rows("SELECT DISTINCT run_id FROM contexts") == [("mine",)]


@pytest.mark.slow
def test_a_torch_that_looks_for_no_plug_in(tmp_path: Path) -> None:
    """Where torch has no such entry points, the command runs torchrun through our module, which needs none."""
    from elastic_events.cli.run import with_plugin

    words = with_plugin(["torchrun", *arguments("ok", folder=tmp_path)])
    assert with_plugin([sys.executable, "-m", "torch.distributed.run", *words[3:]]) == words
    done = subprocess.run(words, cwd=tmp_path, env=environment(TMPDIR=str(tmp_path)), check=False, timeout=TIMEOUT)
    assert done.returncode == 0
    assert Job(0, "", tmp_path).story()[-1] == "job.succeeded"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "bogus:", "--", "true"], "no sink is called 'bogus'"),
        (["--", "no-such-program"], "cannot run no-such-program"),
    ],
)
def test_the_command_says_what_is_wrong(words: list[str], said: str, tmp_path: Path) -> None:
    """A wrong URL and a program that is not there are one sentence each, before anything runs."""
    code = "from elastic_events.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "run", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
