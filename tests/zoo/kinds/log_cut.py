"""The last twentieth of the records is cut off, in the middle of a line: what it held is unknown."""

import os

from tests.zoo.life import Me
from tests.zoo.play import Play, Said


def work(me: Me) -> None:
    """What each rank does."""
    me.train(0, 6)


def play(job: Play) -> Said:
    """Play it."""
    path = job.folder / "run.jsonl"
    assert job.torchrun(sinks=f"jsonl:///{path}") == 0
    job.settle()
    os.truncate(path, path.stat().st_size * 95 // 100)
    job.sources = [str(path)]
    rest = path.read_bytes()  # what stands behind the end of a job are torch's own records, metrics and the ledger
    outcome = "succeeded" if b'"job.succeeded"' in rest else "unknown"
    attempt = "succeeded" if b'"attempt.ended"' in rest else "unknown"
    return Said(outcome, [attempt], unchecked=frozenset({"steps", "productive", "quiet"}))
