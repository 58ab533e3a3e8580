"""What is observed, and whether in this process."""

import atexit
import multiprocessing
import os
import sys
import threading
from collections.abc import Sequence
from importlib import import_module

from elastic_events.api import Event, EventSource
from elastic_events.bus.tell import say
from elastic_events.front import front, record
from elastic_events.observe.guard import forget, is_off, switch_off

__all__ = ("PARTS", "asked", "begin", "observed")

#: What `ELASTIC_EVENTS_OBSERVE` may name -> what begins it; `on` is all of them.
PARTS: dict[str, tuple[str, ...]] = {
    "errors": ("last_words:begin", "saving:begin_errors"),
    "steps": ("stepping:begin_steps", "heard:begin"),
    "data": ("stepping:begin_data",),
    "checkpoints": ("saving:begin_checkpoints",),
    "stacks": ("stacks:begin",),
}

#: Torch's launchers: they import torch as well, and are no worker.
_LAUNCHERS = ("torch.distributed.run", "torch.distributed.launch", "elastic_events.torchrun")

#: Of a process that was to be observed.
UNHEARD = (
    "ELASTIC_EVENTS_OBSERVE asks to observe this process, but what was observed went nowhere: set ELASTIC_EVENTS_DIR to a "
    "directory for it, or call elastic_events.start() in the program"
)

_begun: list[str] = []  # parts


def asked(value: str) -> list[str]:
    """Return the parts that a value of `ELASTIC_EVENTS_OBSERVE` asks for; what it names beside them is left out, and told."""
    words = [word.strip().lower() for word in value.split(",") if word.strip()]
    if not words or words == ["off"]:
        return []
    if words in (["on"], ["1"], ["all"]):
        return list(PARTS)
    unknown = [word for word in words if word not in PARTS]
    if unknown:
        told = f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}"
        say(f"elastic_events: ELASTIC_EVENTS_OBSERVE: {told}")
    return [part for part in PARTS if part in words]


def begin(value: str, *, rank: bool = False) -> None:
    """Observe this process, if it is a worker and not yet observed. A part that cannot begin is off, and the others are not.

    With `rank` it is one, as its launcher says.
    """
    parts = asked(value)
    if not parts or _begun or not (rank or is_worker(sys.orig_argv)):
        return
    _begun.extend(parts)
    # Opens the recorder, now: what closes it at exit is registered before what says the last words there.
    about = {"parts": ",".join(parts), "torch": _torch_version()}
    os.register_at_fork(after_in_child=lambda: forget((*parts, "marks")))  # a child is not the rank
    record(Event("observe.started", EventSource.WORKER, 0, {**about}))
    if front.emitter.events is None and value == os.environ.get("ELASTIC_EVENTS_OBSERVE"):
        _tell_at_exit()
    for part in parts:
        try:
            for module, _, function in (start.partition(":") for start in PARTS[part]):
                getattr(import_module(f"elastic_events.observe.{module}"), function)()
        except Exception as error:  # noqa: BLE001 - a torch that we do not know
            switch_off(part, f"{type(error).__name__}: {error}")


def observed() -> set[str]:
    """Return the parts that this process is observed for; empty: it is not."""
    return {part for part in _begun if not is_off(part)}


def is_worker(argv: Sequence[str]) -> bool:
    """Whether this process trains: no launcher, and no child of `multiprocessing`, such as a DataLoader's."""
    # What a spawned child runs is unpickled, which may import torch, before it is known to be a child, and of which rank.
    if multiprocessing.parent_process() is not None or hasattr(multiprocessing.current_process(), "_inheriting"):
        return False
    program = os.path.basename(argv[1]) if len(argv) > 1 else ""
    return "RANK" in os.environ or not (program == "torchrun" or any(word in _LAUNCHERS for word in argv[1:4]))


def _tell_at_exit() -> None:
    """Say at the end of this process that it trained and nothing was recorded, if by then no bus has been opened in it either."""
    pid, opened = os.getpid(), threading.Event()
    front.on_open(lambda _bus: opened.set())

    def tell() -> None:
        # Of who made no step, as a launcher, nothing is missing.
        stepping = sys.modules.get("elastic_events.observe.stepping")
        if stepping is not None and stepping.steps.done and not opened.is_set() and os.getpid() == pid:
            say(f"elastic_events: {UNHEARD}")

    atexit.register(tell)


def _torch_version() -> str | None:
    torch = sys.modules.get("torch")
    return getattr(getattr(torch, "version", None), "__version__", None)
