"""A sample of `python -m tests.faults`, which lets every system call fail."""

import errno
import shutil
import sys
from pathlib import Path

import pytest

from tests.faults.check import Fault, build, try_fault

pytestmark = pytest.mark.skipif(
    shutil.which("gcc") is None or sys.platform != "linux", reason="needs gcc and Linux: it preloads a library"
)

QUICK = [
    ("recorder", Fault("mmap", 1, errno.ENOMEM)),
    ("thread-sqlite", Fault("write", 9, errno.EIO)),
]
SLOW = [
    ("thread-jsonl", Fault("open", 3, errno.EMFILE)),
    ("process-sqlite", Fault("open", 9, errno.EMFILE)),
    ("process-sqlite/collector", Fault("write", 1, errno.ENOSPC, lasting=True)),
    ("process-jsonl/collector", Fault("open", 6, errno.EMFILE)),
    ("spool", Fault("write", 2, errno.ENOSPC, lasting=True)),
    ("dead-letters", Fault("open", 3, errno.EMFILE)),
]


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that lets calls fail."""
    return build(tmp_path_factory.mktemp("shim"))


@pytest.mark.parametrize(("subject", "fault"), QUICK, ids=str)
def test_a_failing_call_costs_the_program_nothing(tmp_path: Path, shim: Path, subject: str, fault: Fault) -> None:
    """F77: the program runs as it does without telemetry, the ledger adds up, losses are told, and the next start is whole."""
    found = try_fault(tmp_path, subject, shim, fault)
    assert found.failed
    assert found.complaints == [], found.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("subject", "fault"), SLOW, ids=str)
def test_a_failing_call_of_a_collector_costs_the_program_nothing(
    tmp_path: Path, shim: Path, subject: str, fault: Fault
) -> None:
    """F77: the same for what a collector, a spool and dead letters do."""
    found = try_fault(tmp_path, subject, shim, fault)
    assert found.failed
    assert found.complaints == [], found.stderr
