"""Real training loops that nobody changed: their steps, checkpoints and collectives."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from elastic_events.bus.record import Record
from elastic_events.reading.builder import build
from elastic_events.reading.source import read_records
from elastic_events.reading.story import Process
from tests.catalogue import check
from tests.observe.jobs import HERE, needs_observer
from tests.torchrun.jobs import TIMEOUT, environment

pytestmark = [*needs_observer, pytest.mark.timeout(TIMEOUT)]


class Run(NamedTuple):
    """A loop that has run."""

    steps: int  #: as it counted them itself
    records: list[Record]
    process: Process
    printed: str

    def events(self, name: str) -> list[dict[str, object]]:
        """The metadata of its events of a name."""
        return [record.fields[-1] for record in self.records if record.name == name]


def run(folder: Path, *arguments: str, script: Path = HERE / "loops.py", **env: str) -> Run:
    """Run one kind of loop, observed, to its end."""
    directory = folder / "recorders"
    asked = {"RANK": "0", "ELASTIC_EVENTS_DIR": str(directory), "ELASTIC_EVENTS_OBSERVE": "on"}
    path = os.pathsep.join(filter(None, (str(HERE.parents[1]), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=folder,
        env=environment(PYTHONPATH=path, **{**asked, **env}),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    records = list(read_records(directory))
    for record in records:
        if record.kind == "event":
            check(record.name, record.fields[-1])
    (story,) = build(records)
    (process,) = story.processes
    return Run(int(done.stdout.splitlines()[-1]), records, process, done.stdout)


KINDS = [
    *(
        "plain",
        "ddp",
        "fsdp",
        "accumulation",
        "amp",
        "gan",
        "lbfgs",
        "backward",
        "wrapper",
        "resumes",
        "raises",
        "compiled",
        "compiled_step",
        "compiled_whole",
    ),
    "evaluates",
]


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_the_scripts_own(tmp_path: Path, kind: str) -> None:
    """However a loop steps, as many steps are observed as it counts itself, and nothing of ours has failed."""
    told = run(tmp_path, kind)
    assert list(told.process.steps) == list(range(told.steps))
    assert not told.events("observe.off")
    assert not told.events("observe.unknown")
    if kind == "amp":
        assert [one.get("skipped", False) for one in told.events("step.observed")] == [n % 3 == 0 for n in range(12)]


def test_optimizers_in_no_fixed_round(tmp_path: Path) -> None:
    """Where one optimizer steps five times as often as the other, the steps are said to have no number."""
    told = run(tmp_path, "wgan")
    (unknown,) = told.events("observe.unknown")
    assert unknown == {"what": "steps", "reason": "several optimizers step in no fixed round"}
    assert told.process.label(len(told.process.steps) - 1).startswith("~")


def test_an_evaluation_is_no_part_of_a_step(tmp_path: Path) -> None:
    """The first step of the second epoch begins with its batch, not before the evaluation that took long."""
    told = run(tmp_path, "evaluates")
    assert told.process.starts[6] - told.process.ends[5] > 300_000_000  # four batches, a tenth of a second each


@pytest.mark.parametrize(("kind", "written"), [("saves", "model.pt"), ("renames", "model.pt.tmp")])
def test_saved_files_are_checkpoints(tmp_path: Path, kind: str, written: str) -> None:
    """`torch.save` to a file is a checkpoint of the last step, and stands beside the steps; so is loading it again, renamed."""
    told = run(tmp_path, kind)
    spans = [(span.what, span.step, Path(span.path or "").name, span.blocking) for span in told.process.spans]
    assert spans == [
        (what, step, path, True)
        for step in (3, 7, 11)
        for what, step, path in (("checkpoint", step, written), ("restore", None, "model.pt"))
    ]
    assert all(span.end_ns > span.start_ns and not span.failed for span in told.process.spans)


def test_what_is_saved_in_a_thread_ends_no_step(tmp_path: Path) -> None:
    """The steps that went on beside it took as long as the others."""
    told = run(tmp_path, "saves_beside").process
    assert [(span.what, span.blocking) for span in told.spans] == [("checkpoint", False)] * 3
    assert all(end - start > 250_000_000 for start, end in zip(told.starts[1:], told.ends[1:], strict=True))


def test_what_the_main_thread_saves_is_no_part_of_a_step(tmp_path: Path) -> None:
    """Also where the optimizer steps in another one."""
    told = run(tmp_path, "steps_elsewhere").process
    assert [(span.what, span.blocking) for span in told.spans] == [("checkpoint", True)] * 4
    assert all(end - start < 200_000_000 for start, end in zip(told.starts[1:], told.ends[1:], strict=True))


def test_an_optimizer_that_is_given_its_state_tells_of_a_restore(tmp_path: Path) -> None:
    """By pickle, say: of what checkpoint, nobody knows, but a script that begins anew gives it none."""
    (restored,) = run(tmp_path, "pickled").process.spans
    assert (restored.what, restored.path, restored.step, restored.failed) == ("restore", None, None, False)


def test_a_load_that_failed_and_one_beside_a_save(tmp_path: Path) -> None:
    """What is loaded behind it, and while a thread saves, is told as well."""
    told = [(span.what, Path(span.path or "").name, span.failed) for span in run(tmp_path, "tries").process.spans]
    names = ["model.pt", "other.pt", "model.pt"]
    kept = [("checkpoint", names[0], False), ("checkpoint", names[1], False), ("restore", names[2], False)]
    assert told == [("restore", "none.pt", True), ("restore", "", False), *kept]


@pytest.mark.parametrize("kind", ["distributed", "configured"])
def test_distributed_checkpoints(tmp_path: Path, kind: str) -> None:
    """Those of torch.distributed.checkpoint are told by its own logger, also where a script configures logging; once each."""
    told = run(tmp_path, kind)
    spans = [(span.what, span.step, span.path, bool(span.end_ns)) for span in told.process.spans]
    assert spans == [("checkpoint", step - 1, f"step-{step}", True) for step in (4, 8, 12)]


def test_marks_of_the_script_win(tmp_path: Path) -> None:
    """Where a script marks its steps and checkpoints itself, nothing that was observed stands beside them."""
    told = run(tmp_path, "marks")
    assert list(told.process.steps) == list(range(100, 112))
    assert [(span.step, span.observed) for span in told.process.spans] == [
        (number, False) for number in range(100, 112)
    ]


def test_a_collective_that_fails(tmp_path: Path) -> None:
    """It is told by its function and its error, also where the script catches it."""
    (failed,) = run(tmp_path, "collective").events("collective.failed")
    assert failed["function"] == "all_gather"
    assert failed["backend"] == "gloo"
    assert failed["error"]


def test_only_what_is_asked_for(tmp_path: Path) -> None:
    """A list observes its parts, and nothing else."""
    told = run(tmp_path, "saves", ELASTIC_EVENTS_OBSERVE="checkpoints")
    assert not told.process.steps
    assert len(told.process.spans) == 6
