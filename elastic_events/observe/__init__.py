"""Observing: what a script that nobody changed does not say itself.

`torch.backends` in pyproject.toml names `autoload`: `import torch` calls it in every process, from torch 2.5 on. With an
older torch, `import elastic_events.observe; elastic_events.observe.autoload()` in the script does the same. Nothing is loaded
and nothing is done where `ELASTIC_EVENTS_OBSERVE` does not ask for it.
"""

import os

__all__ = ("autoload",)

VARIABLE = "ELASTIC_EVENTS_OBSERVE"


def autoload() -> None:
    """Begin to observe this process where the environment asks for it. Never raises: that would break `import torch`."""
    if os.environ.get(VARIABLE, "off") in ("", "off"):
        return
    try:
        from elastic_events.observe.switch import begin

        begin(os.environ[VARIABLE])
    except Exception as error:  # noqa: BLE001 - whatever this process is, it goes on without us
        try:
            text = f"elastic_events: not observing this process: {type(error).__name__}: {error}\n"
            os.write(2, text.encode(errors="backslashreplace"))
        except Exception:  # noqa: BLE001, S110 - no stderr, nobody to tell
            pass
