"""What a collector says on the stderr of its programs."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from elastic_events.recorder.stderrs import write_line


@pytest.mark.parametrize(("how", "told"), [("ab", 1), ("wb", 0)])
def test_files_are_written_to_only_if_they_are_appended_to(tmp_path: Path, how: str, told: int) -> None:
    """A log that its program does not append to would be overwritten: it gets no line."""
    log = tmp_path / "log"
    with log.open(how) as stderr:
        program = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=stderr)
        try:
            assert write_line("a sink is away", [program.pid]) == told
        finally:
            program.communicate(b"\n")
    assert log.read_text() == "elastic_events: a sink is away\n" * told


def test_programs_that_share_a_pipe_are_told_once() -> None:
    """Eight ranks on one terminal read one line; an end that is full, or gone, is passed over."""
    read, write = os.pipe()
    programs = [
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=write) for _ in range(2)
    ]
    try:
        assert write_line("once", [program.pid for program in programs]) == 1
        assert os.read(read, 100) == b"elastic_events: once\n"
        os.set_blocking(write, False)
        with suppress(BlockingIOError):
            while True:
                os.write(write, b"x" * 4096)
        assert write_line("full", [programs[0].pid, 2**22]) == 0
    finally:
        for program in programs:
            program.communicate(b"\n")
        os.close(read)
        os.close(write)
