"""Which records were read before: a file may be given twice, or hold what another one, or a recovery, holds too."""

__all__ = ("Once",)

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
