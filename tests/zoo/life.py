"""What a worker does, and the truth that it writes of itself: a line an act, in the truth file, as it happens.

The truth is written with `os.write` to a file that nothing of ours reads or writes. A worker imports no torch unless its kind
needs it: what is tested is what is told of a job, and a job's ranks can as well wait for each other by files.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn
from uuid import uuid4

__all__ = ("TRUTH", "Me", "write")

#: The name of the file with the truth.
TRUTH = "truth.jsonl"


def write(folder: Path, what: str, **facts: Any) -> None:
    """Add one fact to the truth, with the time at which it is so."""
    line = json.dumps({"t": time.time_ns(), "what": what, **facts}) + "\n"
    descriptor = os.open(folder / TRUTH, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


class Me:
    """One worker: each of its methods does something, marks it as a training script would, and writes down that it was so."""

    def __init__(self, folder: Path, rank: int | None = None, world: int | None = None) -> None:
        own = os.environ
        self.folder = folder
        self.rank = int(own.get("RANK", "0")) if rank is None else rank
        self.world = int(own.get("WORLD_SIZE", "1")) if world is None else world
        self.local = int(own.get("LOCAL_RANK", self.rank))
        self.node = int(own.get("ZOO_NODE", "0"))
        self.variant = own.get("ZOO_KIND", "").partition("-")[2]
        self.restart = int(own.get("TORCHELASTIC_RESTART_COUNT", "0"))
        #: What the workers of one attempt have in common, on all nodes: the port is drawn anew for each.
        self.life = f"{own.get('MASTER_PORT', 'one')}-{self.world}"
        self.lingers = 0.0  #: seconds from a SIGTERM to its end
        self.fragile = False  #: it fails where a peer is gone, as one does whose connection breaks
        signal.signal(signal.SIGTERM, self._ended)
        self.tell("born", world=self.world, restart=self.restart)
        self._leave("born", str(os.getpid()))

    def tell(self, what: str, **facts: Any) -> None:
        """Write the truth."""
        pid = int(os.environ.get("ZOO_PID", os.getpid()))  # of what the agent started: a program may be around this one
        write(self.folder, what, pid=pid, rank=self.rank, node=self.node, life=self.life, **facts)

    def _ended(self, _number: int, _frame: FrameType | None) -> NoReturn:
        """End by the SIGTERM of an agent."""
        self.tell("ended")
        time.sleep(self.lingers)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("alive")

    # --- with the others ---

    def _leave(self, name: str, text: str = "") -> None:
        place = self.folder / "meet" / f"{self.life}-{name}-{self.rank}"
        place.parent.mkdir(exist_ok=True)
        part = place.with_suffix(f".{os.getpid()}.part")
        part.write_text(text)
        part.rename(place)

    def there(self, name: str, rank: int) -> bool:
        """Whether a peer came to what is called so."""
        return (self.folder / "meet" / f"{self.life}-{name}-{rank}").exists()

    def meet(self, name: str, *ranks: int) -> None:
        """Wait for all peers, or those of `ranks`, as a collective does."""
        self._leave(name)
        for rank in ranks or range(self.world):
            while not self.there(name, rank):
                if self.fragile and self._gone(rank):
                    self.tell("breaks")
                    time.sleep(0.06)
                    raise ConnectionError("the connection was closed by a peer")
                time.sleep(0.002)

    def _gone(self, rank: int) -> bool:
        if not self.there("born", rank):
            return False
        pid = (self.folder / "meet" / f"{self.life}-born-{rank}").read_text()
        with suppress(OSError):
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
        return True

    def meet_file(self, name: str) -> None:
        """Wait until who plays the kind says so."""
        while not (self.folder / name).exists():
            time.sleep(0.002)

    def once(self, name: str) -> bool:
        """Whether this is the first time that anybody of the job does this, in whatever attempt."""
        with suppress(FileExistsError):
            os.close(os.open(self.folder / f"once-{name}", os.O_CREAT | os.O_EXCL))
            return True
        return False

    # --- training ---

    @contextmanager
    def step(self, number: Any, seconds: float = 0.05, *, alone: bool = False, **marks: Any) -> Iterator[None]:
        """A step, which ends when all ranks are through with it, unless each is `alone`.

        The truth is written before and behind each mark: on a machine that is busy with other work the two are apart.
        """
        import elastic_events

        self.tell("to step", number=number)
        with elastic_events.step(number, **marks):
            self.tell("step", number=number)
            yield
            time.sleep(seconds)
            if not alone:
                self.meet(f"step {number} {marks}")
            self.tell("stepped", number=number)
        self.tell("left step", number=number)

    def train(self, first: int, last: int, seconds: float = 0.05, **marks: Any) -> None:
        """Do the steps from the first to the one before the last."""
        for number in range(first, last):
            with self.step(number, seconds, **marks):
                pass

    @contextmanager
    def checkpoint(self, number: int, seconds: float = 0.2) -> Iterator[None]:
        """Write a checkpoint that holds up all."""
        import elastic_events

        self.tell("to save")
        with elastic_events.checkpoint(number):
            self.tell("save")
            yield
            time.sleep(seconds)
            self.meet(f"checkpoint {number}")
            self.tell("saved")
        self.tell("left save")

    def stick(self) -> NoReturn:
        """Hang."""
        self.tell("hangs")
        while True:
            time.sleep(60)

    # --- ends ---

    def last_word(self) -> None:
        """Record something that nobody else says."""
        import elastic_events

        word = uuid4().hex
        elastic_events.record(elastic_events.Event("zoo.word", "WORKER", metadata={"word": word}))
        self.tell("word", word=word)

    def dies(self, cause: str) -> None:
        """Say that this process is going to end by itself, now, and of what."""
        self.last_word()
        self.tell("dies", cause=cause)

    def die(self, cause: str) -> NoReturn:
        """End by a signal, or as "exit code 3"."""
        self.dies(cause)
        if cause.startswith("SIG"):
            number = signal.Signals[cause]
            if number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        sys.exit(int(cause.rpartition(" ")[2]))
