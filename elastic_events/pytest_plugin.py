"""A fixture for tests of programs that record: `pytest_plugins = ["elastic_events.pytest_plugin"]` in conftest.py."""

from collections.abc import Iterator

import pytest

from elastic_events.testing import Capture, capture

__all__ = ("captured",)


@pytest.fixture
def captured() -> Iterator[Capture]:
    """What the test records, on every bus that is open, or opens meanwhile, and where none is."""
    with capture(buses="all") as records:
        yield records
