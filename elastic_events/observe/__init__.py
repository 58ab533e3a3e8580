"""Observing: what a script that nobody changed does not say itself.

`torch.backends` in pyproject.toml names `autoload`: `import torch` calls it in every process, from torch 2.5 on. With an
older torch, `import elastic_events.observe; elastic_events.observe.autoload()` in the script does the same. Nothing is loaded
and nothing is done where `ELASTIC_EVENTS_OBSERVE` does not ask for it.
"""

import os
import sys
from typing import Any

__all__ = ("autoload", "lightning_callbacks", "observe")

VARIABLE = "ELASTIC_EVENTS_OBSERVE"


def autoload() -> None:
    """Begin to observe this process where the environment asks for it. Never raises: that would break `import torch`."""
    observe()


def observe(*, rank: bool = False) -> None:
    """Do as `autoload` does; `rank`: this is a worker, whatever process it is. Never raises."""
    if os.environ.get(VARIABLE, "off") in ("", "off"):
        return
    try:
        from elastic_events.observe.switch import begin

        begin(os.environ[VARIABLE], rank=rank)
    except Exception as error:  # noqa: BLE001 - whatever this process is, it goes on without us
        _say(f"not observing this process: {type(error).__name__}: {error}")


def lightning_callbacks() -> list[Any]:
    """Return the callback for a new `Trainer` of Lightning, where this process is observed. Never raises: as above.

    Lightning calls it by its entry point for callbacks, in whatever environment this package is installed.
    """
    if os.environ.get(VARIABLE, "off") in ("", "off"):
        return []
    try:
        from elastic_events.observe.switch import observed

        parts = observed() & {"steps", "checkpoints"}
        if not parts:
            return []
        from elastic_events.observe.lightning import ElasticCallback

        return [ElasticCallback(parts)]
    except Exception as error:  # noqa: BLE001
        _say(f"not marking what Lightning does: {type(error).__name__}: {error}")
        return []


def _say(text: str) -> None:
    try:
        if sys.__stderr__ is not None:  # closed when the program began: the descriptor may be a file of its own by now
            os.write(2, f"elastic_events: {text}\n".encode(errors="backslashreplace"))
    except Exception:  # noqa: BLE001, S110 - nobody to tell
        pass
