"""Installed and not asked for, the plug-in is next to nothing."""

import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable
from pathlib import Path

from elastic_events.torchrun.plugin import requested
from tests.torchrun.jobs import HERE, looks_for_plugins, needs_torch


def python(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python on its own, bytecode cached as in any installation."""
    foreign = ("ELASTIC_EVENTS_", "PET_", "PYTHONDONTWRITE")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    command = [sys.executable, "-W", "ignore", *arguments]
    return subprocess.run(command, env={**clean, **env}, capture_output=True, text=True, check=True)


def ours(names: Iterable[str]) -> set[str]:
    """Of these modules, those that the plug-in could have brought."""
    return {name for name in names if name.split(".")[0] in ("elastic_events", "elastic_metrics", "anyio", "msgspec")}


def cheapest(tmp_path: Path, code: str, modules: set[str], enough: int) -> int:
    """Return the microseconds that these modules, and no other ones of ours, cost in `code`: the least of many times.

    Or less than `enough`, as soon as it was seen: on a busy machine it takes some turns to be left alone.
    """
    costs = [sys.maxsize]
    end = time.monotonic() + 30
    while min(costs) >= enough and time.monotonic() < end:
        done = python("-X", "importtime", "-c", code, PYTHONPYCACHEPREFIX=str(tmp_path))
        rows = [line.removeprefix("import time:").split("|") for line in done.stderr.splitlines() if "|" in line]
        own = {name.strip(): int(cost) for cost, _, name in rows if cost.strip().isdigit()}
        assert ours(own) == modules
        costs.append(sum(own[name] for name in modules))
    return min(costs)


TINY = {"elastic_events", "elastic_events.torchrun", "elastic_events.torchrun.plugin"}

#: The front door of the observer, which `import torch` loads where the package is installed.
DOOR = {"elastic_events.observe"}


def test_the_entry_point_is_there() -> None:
    """The distribution names the plug-in where torch looks for it."""
    project = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["entry-points"]["torchrun.handlers"] == {"elastic": "elastic_events.torchrun.plugin:register"}


def test_importing_the_plug_in_imports_nothing_else(tmp_path: Path) -> None:
    """The module that torch loads, and the packages it is in, cost less than two milliseconds together."""
    assert cheapest(tmp_path, "import logging, typing; import elastic_events.torchrun.plugin", TINY, 2000) < 2000


@needs_torch
@looks_for_plugins
def test_a_process_that_imports_torchs_rendezvous_imports_nothing_more() -> None:
    """Torch loads the plug-in, registers it, and that is all: also in a worker of a job that was asked to record."""
    code = """
import sys
import torch.distributed.elastic.rendezvous as rendezvous
from torch.distributed.elastic.events import handlers
assert "elastic" in handlers._log_handlers
assert isinstance(handlers._log_handlers["dynamic_rendezvous"], __import__("logging").NullHandler)
assert set(rendezvous.rendezvous_handler_registry._registry) == {"etcd", "etcd-v2", "c10d", "static", "elastic"}
print(*sys.modules)
"""
    assert ours(python("-c", code).stdout.split()) - DOOR == TINY
    asked = python("-c", code, PET_EVENT_LOG_HANDLER="elastic", ELASTIC_EVENTS_SINKS="console:")
    assert ours(asked.stdout.split()) - DOOR == TINY


def test_what_asks_for_it() -> None:
    """The flag in any spelling of argparse, and the variables; nothing else."""
    for argv in (
        ["torchrun", "--event-log-handler=elastic", "train.py"],
        ["torchrun", "--event_log_handler", "elastic", "train.py"],
        ["torchrun", "--event-log", "elastic", "train.py"],
    ):
        assert requested(argv, {})
    for name, value in (
        ("PET_EVENT_LOG_HANDLER", "elastic"),
        ("ELASTIC_EVENTS_SINKS", "x:"),
        ("ELASTIC_EVENTS_TORCHRUN", "1"),
    ):
        assert requested([], {name: value})
    assert not requested(["torchrun", "--event-log-handler=console", "train.py", "elastic"], {})
    assert not requested(["torchrun", "train.py"], {"PET_EVENT_LOG_HANDLER": "console", "ELASTIC_EVENTS_SINKS": ""})
