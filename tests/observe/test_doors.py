"""What frameworks tell by their callbacks, each with the real package."""

import importlib.util
import re
from pathlib import Path

import pytest

from elastic_events.observe import guard, lightning_callbacks, switch
from elastic_events.observe.marks import Marks
from elastic_events.testing import capture
from tests.observe.jobs import HERE, needs_observer
from tests.observe.test_loops import Run, run
from tests.torchrun.jobs import TIMEOUT

pytestmark = [*needs_observer, pytest.mark.timeout(TIMEOUT)]


def needs(package: str) -> pytest.MarkDecorator:
    """Skip a test where the package is missing: `pip install --group doors` has them."""
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"needs {package}")


def train(folder: Path, kind: str, **env: str) -> Run:
    """Run one kind of training to its end."""
    return run(folder, kind, script=HERE / "doors.py", **env)


def spans(told: Run, what: str) -> list[int | None]:
    """The steps of its checkpoints, or restores; each has ended."""
    assert all(span.end_ns > span.start_ns for span in told.process.spans)
    return [span.step for span in told.process.spans if span.what == what]


def epochs_and_evaluations(told: Run) -> tuple[list[object], list[object]]:
    """The numbers of its epochs, and the last steps before its evaluations; each has ended."""
    for what in ("epoch", "evaluation"):
        assert len(told.events(f"{what}.started")) == len(told.events(f"{what}.ended"))
    return [one["epoch"] for one in told.events("epoch.started")], [
        one["step"] for one in told.events("evaluation.started")
    ]


@pytest.mark.parametrize("package", ["lightning", "pytorch_lightning"])
def test_an_unmodified_script_of_lightning(tmp_path: Path, package: str) -> None:
    """Lightning's entry point adds the callback: steps are its `global_step`, checkpoints last as long as they did."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")
    told = train(tmp_path, package)
    assert list(told.process.steps) == list(range(told.steps)) == list(range(18))
    assert not told.process.observed
    assert set(spans(told, "checkpoint")) == {3, 7, 11, 15}
    assert all(span.end_ns - span.start_ns > 200_000_000 for span in told.process.spans if span.what == "checkpoint")
    assert spans(told, "restore") == [11]
    assert epochs_and_evaluations(told) == ([0, 1, 2], [5, 11, 17])
    assert not told.events("observe.off")


@needs("transformers")
def test_transformers(tmp_path: Path) -> None:
    """Its callback marks steps by `global_step`, also behind a restore, and each checkpoint as one, not file by file."""
    told = train(tmp_path, "transformers")
    assert list(told.process.steps) == [*range(12), *range(8, told.steps)]
    assert told.steps == 18
    assert spans(told, "checkpoint") == [3, 7, 11, 11, 15, 17]
    assert spans(told, "restore") == [7]
    assert epochs_and_evaluations(told) == ([0, 1, 1, 2], [5, 11, 11, 17])
    assert not told.events("observe.off")


@needs("accelerate")
def test_accelerate(tmp_path: Path) -> None:
    """Steps are those of its optimizers, also where nothing else asks for them; a state that it saves is one checkpoint."""
    told = train(tmp_path, "accelerate", ELASTIC_EVENTS_OBSERVE="off")
    assert list(told.process.steps) == list(range(told.steps)) == list(range(6))
    assert spans(told, "checkpoint") == [1, 3, 5]
    assert spans(told, "restore") == [None]
    assert [Path(span.path or "").name for span in told.process.spans] == ["2", "4", "6", "2"]


@needs("torchtitan")
def test_torchtitan(tmp_path: Path) -> None:
    """What its structured logger logs are events and metrics, and its own file has the same lines as always."""
    told = train(tmp_path, "torchtitan")
    steps = [one["step"] for one in told.events("torchtitan.fwd_bwd_start")]
    assert steps == [one["step"] for one in told.events("torchtitan.fwd_bwd_end")] == [1, 2, 3]
    assert len(told.events("torchtitan.training_start")) == 1
    assert [record.fields[-1] for record in told.records if record.name == "loss"] == [1.0, 1 / 2, 1 / 3]
    (lines,) = (tmp_path / "titan/structured_logs").glob("*.jsonl")
    assert len(lines.read_text().splitlines()) == 10


@needs("torchft")
def test_torchft(tmp_path: Path) -> None:
    """Its quorums, its commits and its errors are events; nothing more is printed for it."""
    told = train(tmp_path, "torchft")
    assert told.events("torchft.quorum") == [{"step": 0, "replica_id": "one", "quorum_id": 1}]
    assert [(one["step"], one["commit_result"]) for one in told.events("torchft.commit")] == [(0, True), (1, True)]
    assert [one["error"] for one in told.events("torchft.error")] == ["process_group_abort"]
    assert "torchft_" not in told.printed


def test_lightning_gets_no_callback_where_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody observes steps or checkpoints, a Trainer is what it was."""
    monkeypatch.delenv("ELASTIC_EVENTS_OBSERVE", raising=False)
    assert lightning_callbacks() == []
    monkeypatch.setenv("ELASTIC_EVENTS_OBSERVE", "errors")
    monkeypatch.setattr(switch, "_begun", ["errors"])
    assert lightning_callbacks() == []


def test_a_mark_that_fails_switches_the_marks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A framework whose insides have moved loses its marks, told once, and nothing else."""
    monkeypatch.setattr(guard, "_off", set())
    with capture() as captured:
        marks = Marks()
        marks.begin("step", 3)
        marks.around(object(), "_save_checkpoint", "checkpoint", lambda *_: 3)
        marks.begin("step", 4)
    assert [event.name for event in captured.events] == ["step.started", "observe.off"]
    assert "_save_checkpoint" in str(captured.events[-1].metadata)


@needs("lightning")
@needs("transformers")
@needs("accelerate")
def test_the_examples_of_the_page_run(tmp_path: Path) -> None:
    """Each framework's example in docs/torchrun.md trains, and its steps are recorded."""
    page = (HERE.parents[1] / "docs/torchrun.md").read_text("utf-8").partition("## Frameworks")[2].partition("\n## ")[0]
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(examples) == 3
    script = tmp_path / "examples.py"
    script.write_text("\n".join([*examples, "print(0)"]), "utf-8")
    told = run(tmp_path, script=script, ELASTIC_EVENTS_OBSERVE="off")
    assert len(told.events("step.ended")) == 8 + 8
    assert len(told.events("step.observed")) == 8
    assert len(told.events("checkpoint.ended")) == 3
