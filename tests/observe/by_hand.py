"""Goodput by what is observed beside goodput by marks, of the same runs: `python -m tests.observe.by_hand [KIND...]`.

Each loop of `loops.py`, and each framework of `doors.py`, runs once, observed, with its steps and checkpoints marked as its
author would mark them. Of its records the marks are left out, then what was observed: that is two answers on one run.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path

import elastic_events
from elastic_events.bus.record import Record
from elastic_events.reading.buckets import Goodput, goodput
from elastic_events.reading.builder import build

#: Seconds that a loss takes, and steps of a loop: which optimizer ends a step is learned in the first one. Of a framework, of
#: which an epoch is twelve batches, a loss takes longer: what it does between them is in one of the answers, as a rule.
WORK, STEPS, LONGER = 0.005, 100, 0.05

LOOPS = ("ddp", "fsdp", "accumulation", "amp", "gan", "lbfgs", "backward", "distributed", "saves")
FRAMEWORKS = ("lightning", "transformers", "accelerate")


def main(kinds: list[str]) -> int:
    """Run them; return how many differ by more than 2 %."""
    bad = 0
    for kind in kinds or [*LOOPS, *FRAMEWORKS]:
        records = _run(kind)
        observed = _answer(records, lambda facts: facts.get("observed") is True or "took_ns" in facts)
        marked = _answer(records, lambda facts: "mark_id" in facts and facts.get("observed") is not True)
        apart = abs((observed.ettr or 0) - (marked.ettr or 0)) / (marked.ettr or 1)
        bad += apart > 0.02 or observed.steps == 0
        shown = (
            f"{kind:14} observed {observed.ettr:.2%}, {observed.steps} steps; marked {marked.ettr:.2%}, {marked.steps}"
        )
        print(f"{shown}; apart {apart:.2%}", flush=True)
    return bad


def _run(kind: str) -> list[Record]:
    from tests.observe.test_loops import run

    with tempfile.TemporaryDirectory() as folder:
        return run(Path(folder), "--run", kind, script=Path(__file__)).records


def _answer(records: list[Record], keep: Callable[[dict[str, object]], bool]) -> Goodput:
    """The goodput by those of the marks that `keep` keeps."""
    kept = [one for one in records if not one.name.startswith(("step.", "checkpoint.")) or keep(one.fields[-1])]
    (story,) = build(kept)
    return goodput(story)


def work(seconds: float) -> None:
    """Take as long as a loss does."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def train(kind: str) -> object:
    """Run one kind, marked."""
    from tests.observe import doors, loops

    if kind in FRAMEWORKS:
        doors.Model.forward = _slower(doors.Model.forward, LONGER)
        doors.mark = elastic_events.step
        return doors.accelerate() if kind == "accelerate" else getattr(doors, kind)(again=False)
    batches = loops.batches
    loops.loss_of = _slower(loops.loss_of)
    if kind in ("saves", "distributed"):
        return saves(distributed=kind == "distributed")

    def marked():
        for number, batch in enumerate(batches(STEPS)):
            with elastic_events.step(number):
                yield batch

    loops.batches = marked
    return getattr(loops, kind)()


def saves(*, distributed: bool) -> int:
    """The loop of `loops.saves` or `loops.distributed`."""
    import torch

    from tests.observe import loops

    if distributed:
        loops.group()
        import torch.distributed.checkpoint
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for number, batch in enumerate(loops.batches(STEPS)):
        with elastic_events.step(number):
            loops.loss_of(model, batch).backward()
            optimizer.step()
        if number % 4 == 3:
            with elastic_events.checkpoint(number):
                if distributed:
                    torch.distributed.checkpoint.save({"model": model.state_dict()}, checkpoint_id=f"step-{number}")
                else:
                    torch.save(model.state_dict(), "model.pt")
    return STEPS


def _slower(original: Callable[..., object], seconds: float = WORK) -> Callable[..., object]:
    @wraps(original)
    def call(*args: object, **options: object) -> object:
        work(seconds)
        return original(*args, **options)

    return call


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        print(train(sys.argv[2]))
    else:
        sys.exit(bool(main(sys.argv[1:])))
