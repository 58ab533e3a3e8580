"""What torchrun's agent does, recorded; and the truth about what happened, which torch's own stream does not tell.

As a plug-in, without a line of code: `torchrun --event-log-handler=elastic train.py`, or `ELASTIC_EVENTS_SINKS=URL`
in the environment, or `elastic-events run -- torchrun train.py`. Torch finds it under its entry-point group
`torchrun.handlers`; `elastic_events.torchrun.plugin` says what it does then.

As a library, for launchers built on `LocalElasticAgent` or `launch_agent`:

    with EventBus("sqlite:///run.db") as bus, install(bus):
        launch_agent(config, "train.py", [])

`torch_monitor(bus)` hands the events of `torch.monitor` to a bus. Nothing here imports torch before torch is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elastic_events.torchrun.installation import install
    from elastic_events.torchrun.monitor import torch_monitor
    from elastic_events.torchrun.repair import Exit, Fact, Repair
    from elastic_events.torchrun.ticks import Ticks

__all__ = ("Exit", "Fact", "Repair", "Ticks", "install", "torch_monitor")

_HOME = {
    "Exit": "repair",
    "Fact": "repair",
    "Repair": "repair",
    "Ticks": "ticks",
    "install": "installation",
    "torch_monitor": "monitor",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # The plug-in's entry point loads this module in processes that want nothing of it.
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
