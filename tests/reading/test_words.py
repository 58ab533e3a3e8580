"""Numbers as people read them."""

import pytest

from elastic_events.reading.words import seconds


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00001, "0.01 ms"),
        (0.00996, "10 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (119.94, "119.9 s"),
        (119.96, "2m 00s"),
        (3599.4, "59m 59s"),
        (3599.6, "1h 00m"),
        (7199, "2h 00m"),
        (-200, "-3m 20s"),
    ],
)
def test_no_unit_is_full(value: float, text: str) -> None:
    """A duration that rounding carries into the next unit is told in that one: no 60 seconds, no 1000 ms."""
    assert seconds(value) == text
