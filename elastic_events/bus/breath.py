"""How the background leaves the GIL to training: short turns, and a real sleep between two.

A thread that lets go of the GIL and asks again at once has it again before another wakes up: what were short turns is one
long one, and a training step that waited for it is late. Sleeping, however short, hands it over; CPython then lets the other
thread run for its switch interval of 5 ms.
"""

import time
from collections.abc import Iterator, Sequence

from elastic_events.bus.handler import BATCH
from elastic_events.bus.record import Record

__all__ = ("BREATH", "TURN", "Turns")

#: Records of a turn: a quarter of a millisecond of work.
TURN = 64

#: Seconds between two turns.
BREATH = 0.0001


class Turns:
    """Gives the records of a sink's batches to its thread, which sleeps between turns; but not when it cannot keep up."""

    def __init__(self) -> None:
        self._full = 0  # batches in a row

    def of(self, records: Sequence[Record]) -> Iterator[Record]:
        """Give `records`, one by one."""
        self._full = self._full + 1 if len(records) >= BATCH else 0
        turn = TURN if self._full < 4 else len(records)
        for begin in range(0, len(records), turn):
            if begin:
                time.sleep(BREATH)
            yield from records[begin : begin + turn]
