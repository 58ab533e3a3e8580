"""Which records were read before: a file may be given twice, or hold what another one, or a recovery, holds too."""

from typing import Any

from elastic_events.bus.record import Record
from elastic_events.reading.said import DEATHS

__all__ = ("Each", "Once")

_BITS = 256


class Once:
    """The sequence numbers that were seen of one ring of one process, at a bit each."""

    __slots__ = ("_pages",)

    def __init__(self) -> None:
        self._pages: dict[int, int] = {}

    def new(self, seq: int) -> bool:
        """Whether `seq` is seen for the first time; from now on it is not."""
        page, bit = divmod(seq, _BITS)
        seen, mark = self._pages.get(page, 0), 1 << bit
        if seen & mark:
            return False
        self._pages[page] = seen | mark
        return True


class Each:
    """The records of several sources that were seen, by their ids; a ledger by all that it says, which may be more later."""

    def __init__(self) -> None:
        self._rings: dict[Any, Once] = {}
        self._ledgers: set[str] = set()

    def new(self, record: Record) -> bool:
        """Whether `record` is seen for the first time; always of a process that has no identity."""
        context = record.context
        if not context.process:
            return True
        if record.kind == "ledger":
            said = repr((context.run_id, context.process, record.seq, record.channel, record.fields))
            if said in self._ledgers:
                return False
            self._ledgers.add(said)
            return True
        # Another's word on a death has the number behind the last that was read, which one that comes late may have, too.
        death = record.name if record.name in DEATHS else None
        key = context.run_id, context.process, record.ring, death
        once = self._rings.get(key)
        if once is None:
            once = self._rings[key] = Once()
        return once.new(record.seq)
