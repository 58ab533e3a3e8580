"""`torch.compile` over code that records: it breaks its graph at the call, records each time, and compiles the rest."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.torch.worlds import OURS

assert OURS  # importing it skips this module where torch is not to be had

PROGRAM = """
import torch
from elastic_events import Event, EventBus, EventSource, record
from elastic_events.testing import ListSink
from elastic_metrics import prof, put_metric

@prof
def loss_of(model, batch):
    return model(batch).square().mean()

def step(model, batch, number):
    loss = loss_of(model, batch)
    put_metric("loss", loss)
    put_metric("step", number)
    record(Event("step", EventSource.WORKER, metadata={"number": number, "loss": loss}))
    return loss * 2

model = torch.nn.Linear(4, 4)
sink = ListSink()
with EventBus(sink, recorder=RECORDER) as bus:
    fast = torch.compile(step, backend="BACKEND")
    for number in range(5):
        batch = torch.ones(2, 4) * number
        assert torch.allclose(fast(model, batch, number), step(model, batch, number), atol=1e-5)
names = [one.name for one in sink.payload]
assert names.count("loss") == names.count("step") / 2 == 10, names
assert all(isinstance(one.metric.value, float) for one in sink.payload if one.name == "loss")
assert names.count("__main__.loss_of.success") == 10, names
print("done")
"""


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("recorder", ["False", "'rings'"])
def test_compiled_step_records(backend: str, recorder: str, tmp_path: Path) -> None:
    """With a bus open, a compiled step records what the plain one does, each time, and returns the same."""
    program = textwrap.dedent(PROGRAM).replace("BACKEND", backend).replace("RECORDER", recorder)
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.stdout == "done\n", done.stderr[-3000:]
