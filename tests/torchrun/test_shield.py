"""The shield between our faults and the job."""

import pytest

from elastic_events.torchrun.shield import shielded


class SignalException(Exception):
    """As torch's handler of signals raises it, wherever the main thread is."""


@shielded
def fails(error: BaseException) -> None:
    """Raise it."""
    raise error


def test_our_fault_stays_here(capfd: pytest.CaptureFixture[str]) -> None:
    """An error of ours is None to torch, and one line on stderr however often it happens."""
    assert fails(ValueError("ours")) is None
    assert fails(ValueError("ours")) is None
    assert capfd.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("error", [SignalException("15"), KeyboardInterrupt(), SystemExit(3)])
def test_the_end_of_the_job_passes(error: BaseException) -> None:
    """A signal that torch turns into an exception while our code runs must reach torch, or the job would not end."""
    with pytest.raises(type(error)):
        fails(error)
