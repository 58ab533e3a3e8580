"""The drain of an agent that can have no collector process: a bus in a thread of its own."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from elastic_events import EventBus
from elastic_events.bus.text import counted
from elastic_events.recorder.collecting import Collecting
from elastic_events.recorder.directory import remove, rings, secure
from elastic_events.torchrun.shield import tell

__all__ = ("InThread",)


class InThread:
    """A bus with the sinks of `urls`, which also collects the workers' recorders in `directory` if that can be used."""

    def __init__(self, urls: Sequence[str], directory: Path | None) -> None:
        self._directory = directory if directory is not None and _usable(directory) else None
        self._urls = urls
        os.environ.pop("ELASTIC_EVENTS_DIR", None)  # where it cannot be used the workers would warn of it, each of them
        self.to: EventBus = EventBus()
        if self._directory is not None:
            os.environ["ELASTIC_EVENTS_DIR"] = str(self._directory)

    def follow(self, exit_codes: Mapping[int, int]) -> None:
        """Start the thread. Its sinks come after it: one that cannot be opened costs the others nothing."""
        if self._directory is not None:
            self.to._drain.follow(Collecting.of(self.to, self._directory, exit_code=exit_codes.get))
        self.to.open()
        for url in self._urls:
            self.to.subscribe(url)

    def close(self, timeout: float) -> None:
        """Deliver what is left; say what could not be."""
        left = max(self.to.close(timeout).undelivered.values(), default=0)
        if left:
            tell(f"{counted(left, 'record')} undelivered, lost with this process")
        if self._directory is not None and not any(rings(self._directory)):
            remove(self._directory, whole=True)


def _usable(directory: Path) -> bool:
    try:
        secure(directory)
        probe = directory / f".{os.getpid()}.probe"
        probe.write_bytes(bytes(4096))
        probe.unlink()
    except Exception:  # noqa: BLE001 - the reason was told already
        return False
    return True
