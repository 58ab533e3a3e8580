"""What asks for the observer, and what it costs where nobody does."""

import multiprocessing
import subprocess
import sys
import threading
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from elastic_events.observe import last_words
from elastic_events.observe.switch import PARTS, asked, is_worker
from elastic_events.testing import capture
from tests.observe.jobs import needs_observer
from tests.torchrun.jobs import needs_torch
from tests.torchrun.test_inert import cheapest, ours, python

DOOR = {"elastic_events", "elastic_events.observe"}


def test_the_entry_point_is_there() -> None:
    """The distribution names the front door where torch looks for it."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["entry-points"]["torch.backends"] == {"elastic_events": "elastic_events.observe:autoload"}


def test_what_asks_for_it(capfd: pytest.CaptureFixture[str]) -> None:
    """`on`, `off` or a list; a word that means nothing is said once and left out."""
    assert asked("on") == asked("1") == list(PARTS)
    assert asked("off") == asked("") == []
    assert asked(" errors ,") == ["errors"]
    assert capfd.readouterr().err == ""
    assert asked("errors,colours") == ["errors"]
    assert "no such part: colours; there are" in capfd.readouterr().err


def test_launchers_are_not_observed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What starts workers imports torch as well; only what trains is observed."""
    monkeypatch.delenv("RANK", raising=False)
    assert not is_worker([sys.executable, "/usr/bin/torchrun", "train.py"])
    assert not is_worker([sys.executable, "-m", "torch.distributed.run", "train.py"])
    assert is_worker([sys.executable, "train.py"])
    monkeypatch.setenv("RANK", "0")
    assert is_worker([sys.executable, "-m", "torch.distributed.run"])  # a rank that launches something has said enough


def test_a_child_that_is_being_made_is_not_observed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a spawned child imports as its function is unpickled finds no worker yet: it has no rank, or is a loader's."""
    monkeypatch.setenv("RANK", "0")
    (tmp_path / "asks.py").write_text(
        "import sys\nfrom elastic_events.observe.switch import is_worker\n"
        "found = is_worker(sys.orig_argv)\ndef end(): sys.exit(int(found))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    child = multiprocessing.get_context("spawn").Process(target=import_module("asks").end)
    child.start()
    child.join(60)
    assert child.exitcode == 0


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("stepping.steps.done = 1", 1),
        ("pass", 0),  # as of a launcher
        ("stepping.steps.done = 1; import elastic_events as e; e.start('jsonl:///{folder}/run.jsonl'); e.stop()", 0),
        ("stepping.steps.done = 1; import os, sys; (sys.exit(0) if os.fork() == 0 else os.wait())", 1),
    ],
)
def test_who_is_observed_and_recorded_by_nobody_is_told_so_once(tmp_path: Path, program: str, told: int) -> None:
    """Else a script runs for hours, and nothing is there."""
    door = "from elastic_events.observe import autoload, stepping; autoload()"
    code = f"{door}; {program.format(folder=tmp_path)}"
    assert python("-c", code, ELASTIC_EVENTS_OBSERVE="errors").stderr.count("went nowhere") == told
    assert python("-c", code, ELASTIC_EVENTS_OBSERVE="errors", ELASTIC_EVENTS_DIR=str(tmp_path / "rings")).stderr == ""
    assert python("-c", code, ELASTIC_EVENTS_OBSERVE="off").stderr == ""


def test_the_front_door_costs_less_than_a_millisecond(tmp_path: Path) -> None:
    """Where nobody asks, `import torch` loads two tiny modules and calls a function that reads one variable."""
    code = "import typing; from elastic_events.observe import autoload; autoload()"
    assert cheapest(tmp_path, code, DOOR, 1000) < 1000


@needs_torch
@needs_observer[1]
def test_import_torch_loads_the_door_and_nothing_more() -> None:
    """In a process that nobody asked to observe, torch finds the front door, and that is all."""
    code = "import sys, torch; assert sys.excepthook is sys.__excepthook__; print(*sys.modules)"
    assert ours(python("-c", code).stdout.split()) == DOOR
    assert ours(python("-c", code, ELASTIC_EVENTS_OBSERVE="off").stdout.split()) == DOOR


@needs_torch
@needs_observer[1]
def test_a_fault_of_the_observer_breaks_no_import(tmp_path: Path) -> None:
    """If it cannot even begin, it says so in a line, and torch is imported all the same."""
    (tmp_path / "msgspec.py").write_text("raise RuntimeError('planted')\n", "utf-8")
    done = python("-c", "import torch; print('trained')", PYTHONPATH=str(tmp_path), ELASTIC_EVENTS_OBSERVE="on")
    assert done.stdout == "trained\n"
    assert "not observing this process: RuntimeError: planted" in done.stderr


def test_a_thread_that_exits_is_no_end_of_the_process() -> None:
    """`sys.exit` in a thread ends that thread, and says nothing of why the process ends later."""
    words = last_words._Words(None, None)
    with capture() as captured:
        thread = threading.Thread(target=words._leaving, args=("sys.exit", 3))
        thread.start()
        thread.join()
        words._leaving("sys.exit", 4)
    assert [event.metadata["code"] for event in captured.events] == [4]


def test_an_exception_that_cannot_be_shown_is_shown_as_without_us() -> None:
    """One whose `__str__` raises is told by its type, and what Python prints of it, in whatever thread, is what it was."""

    class OddError(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

        __repr__ = __str__

        def __eq__(self, _other: object) -> bool:
            raise ValueError("neither")

        __hash__ = Exception.__hash__

    words = last_words._Words(None, None)
    with capture() as captured:
        words.raised(OddError(), None)
        words._leaving("sys.exit", OddError())
    raised, left = captured.events
    assert (str(raised.metadata["type"]).rpartition(".")[2], raised.metadata["message"]) == (
        "OddError",
        "<str() failed>",
    )
    assert (left.metadata["code"], left.metadata["message"]) == (1, "sys.exit(<repr() failed>)")
    script = (
        "import sys, threading\nfrom elastic_events.observe import last_words\n"
        "class Odd(Exception):\n    def __str__(self): raise ValueError\n    __repr__ = __str__\n"
        "def work(): raise Odd(Odd())\n"
        "if len(sys.argv) > 1: last_words.begin()\n"
        "thread = threading.Thread(target=work)\nthread.start()\nthread.join()\nwork()\n"
    )
    ends = [
        subprocess.run([sys.executable, "-c", script, *more], capture_output=True, text=True, timeout=60, check=False)
        for more in ((), ("observed",))
    ]
    assert ends[0].returncode == 1
    assert (ends[1].returncode, ends[1].stderr) == (1, ends[0].stderr)
