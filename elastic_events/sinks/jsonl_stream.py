"""JSON Lines to a stream: the stdout of a container, whose runtime keeps the log, or a FIFO that a shipper reads."""

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import SplitResult, unquote

from elastic_events.bus.errors import ConfigError
from elastic_events.bus.record import Record
from elastic_events.sinks.console import ConsoleSink
from elastic_events.sinks.files import failure, from_root, refusal
from elastic_events.sinks.stored import to_lines

__all__ = ("JsonlStream", "stream_of")

# As in a URL: behind three slashes a file's name begins, and one may be called stdout.
_NAMES = {"stdout": 1, "stderr": 2, "-": 1, "//dev/stdout": 1, "//dev/stderr": 2}
_DESCRIPTOR = re.compile(r"//(?:dev|proc/self)/fd/(\d{1,6})")


class JsonlStream(ConsoleSink):
    """Writes one stored record (`sinks.stored`) a line to a descriptor or a FIFO.

    Delivered means: the pipe, terminal or file behind it took the bytes. A FIFO may be opened before its reader, and outlives
    it: what is written meanwhile waits in the kernel's buffer, and beyond that in the lane's backlog. What a timeout
    interrupts half-way may be there again, its first line cut.

    Args:
        stream: a descriptor, or the path of a FIFO.
    """

    name = "jsonl"
    is_read_back = True  # its readers look for the ledger, whatever the lane wants
    thread_name = "elastic-events jsonl"

    def __init__(self, stream: int | Path) -> None:
        super().__init__(stream if isinstance(stream, int) else -1, color=False)
        self.path: Path | None = None if isinstance(stream, int) else from_root(stream)

    def __repr__(self) -> str:
        return f"<JsonlStream {self.path or self.stream}>"

    def check(self) -> None:
        """Say what is wrong with a FIFO's path, without opening it: nothing is there, or something else.

        Raises:
            ConfigError: that.
        """
        if self.path is not None:
            try:
                mode = self.path.lstat().st_mode
            except OSError as error:
                raise refusal(self.path, error) from None
            if not stat.S_ISFIFO(mode):
                raise ConfigError(f"{self.path} is no FIFO: make one with mkfifo, or leave out fifo=1")

    def open_now(self) -> None:
        """Copy the descriptor, or open the FIFO."""
        if self.path is None:
            return super().open_now()
        self.check()
        try:
            # For reading, too: so it can be opened before its reader, and a reader that restarts is no end (fifo(7)).
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise failure(self.path, error) from None
        return None

    def lines(self, records: Sequence[Record]) -> bytes:
        """Return the stored form of `records`."""
        return to_lines(records)


def stream_of(url: SplitResult) -> int | None:
    """Return the descriptor that the path of `url` stands for, None for any other. Looks at no file."""
    name = "" if url.netloc else unquote(url.path)
    match = _DESCRIPTOR.fullmatch(name)
    if match:
        return int(match[1])
    return _NAMES.get(name)
