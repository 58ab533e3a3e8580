"""The stream says each record once: `benchmarks.once`, shortened."""

import pytest

pytest.importorskip("nats")

from benchmarks import once
from tests.servers.conftest import program


@pytest.mark.slow
def test_each_record_is_read_once_whatever_happened() -> None:
    """20,000 records, the server killed twice, away once, its stream full, all replayed twice: each is read once."""
    program("nats-server")
    found = once.run(records=20_000, kills=2, outage=1.0)
    assert (found["delivered"], found["lost"]) == (20_000, 0)
    assert (found["read"], found["twice"]) == (20_000, 0)
    assert found["retries"] > 0
