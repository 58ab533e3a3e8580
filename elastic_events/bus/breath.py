"""How the background leaves the GIL to training: short turns, and a real sleep between two.

A thread that lets go of the GIL and asks again at once has it again before another wakes up: what were short turns is one
long one, and a training step that waited for it is late. Sleeping, however short, hands it over; CPython then lets the other
thread run for its switch interval of 5 ms.
"""

import time
from collections.abc import Iterator, Sequence

from elastic_events.bus.record import Record

__all__ = ("BREATH", "TURN", "in_turns")

#: Records of a turn: a quarter of a millisecond of work.
TURN = 64

#: Seconds between two turns.
BREATH = 0.0001


def in_turns(records: Sequence[Record]) -> Iterator[Record]:
    """Give `records` to a thread that may sleep between turns."""
    for begin in range(0, len(records), TURN):
        if begin:
            time.sleep(BREATH)
        yield from records[begin : begin + TURN]
