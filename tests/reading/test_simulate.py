"""A simulated job, of which all is known: every reading finds what is true of it."""

from pathlib import Path

import pytest

from benchmarks.simulate import Job, simulate
from elastic_events.reading.buckets import goodput
from elastic_events.reading.overview import summary
from elastic_events.reading.rows import timeline
from elastic_events.reading.source import read_records, read_stories
from elastic_events.reading.stragglers import slow
from tests.programs import python


def test_the_readings_find_what_is_true(tmp_path: Path) -> None:
    """Goodput to the nanosecond, each first failure, the late rank, the quiet one, and a row a node."""
    job = Job(nodes=12, ranks=8, restarts=3, steps=24, records=30_000)
    truth = simulate(tmp_path / "run.db", job)
    (story,) = read_stories([tmp_path / "run.db"])
    assert sum(1 for _ in read_records(tmp_path / "run.db")) == job.records
    found = goodput(story)
    assert {bucket.name: bucket.seconds for bucket in found.buckets} == pytest.approx(truth.buckets, abs=1e-9)
    assert found.wall_s == truth.wall_s == pytest.approx(sum(truth.buckets.values()))
    assert found.steps == truth.steps
    said = summary(story)
    firsts = [row.first_failure for row in said.attempts if row.first_failure is not None]
    assert [(first.rank, first.signal) for first in firsts] == truth.failures
    assert [row.victims for row in said.attempts] == [95, 95, 95, 0]
    assert (len(said.nodes), said.ranks, said.restarts) == (12, 96, 3)
    rates = slow(story)
    assert [(one.rank, one.straggler) for one in rates.ranks if one.straggler] == [(truth.late, "late")]
    assert [one.rank for one in rates.quiet] == [truth.quiet]
    assert [row.kind for row in timeline(story).rows] == ["node"] * 12


#: Prints how many processes there are, and the bytes that reading took at most. Alone: what other threads take would count.
READ = """
import sys, tracemalloc
from pathlib import Path
from elastic_events.reading.source import read_stories

tracemalloc.start()
(story,) = read_stories([Path(sys.argv[1])])
print(len(story.processes), tracemalloc.get_traced_memory()[1])
"""


def test_a_large_job_is_read_in_little_memory(tmp_path: Path) -> None:
    """Another process that takes part costs less than 2,300 bytes, all that its agent says of it included; reading ahead 4 MB."""
    seen = []
    for nodes in (40, 80):
        job = Job(nodes=nodes, ranks=8, restarts=4, records=1_500 * nodes)
        simulate(tmp_path / f"{nodes}.db", job)
        done = python("-c", READ, f"{nodes}.db", cwd=tmp_path)
        processes, most = map(int, done.stdout.split())
        assert processes == job.world * 5 + job.nodes
        seen.append((processes, most))
    (few, less), (many, more) = seen
    assert (more - less) / (many - few) < 2_300
    assert less - 2_300 * few < 4_000_000
