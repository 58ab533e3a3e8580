"""What torchrun's agent does, recorded; and the truth about what happened, which torch's own stream does not tell.

As a plug-in, without a line of code: `torchrun --event-log-handler=elastic train.py`, or `ELASTIC_EVENTS_SINKS=URL`
in the environment, or `elastic-events run -- torchrun train.py`. Torch finds it under its entry-point group
`torchrun.handlers`; `elastic_events.torchrun.plugin` says what it does then.

As a library, for launchers built on `LocalElasticAgent` or `launch_agent`:

    with EventBus("sqlite:///run.db") as bus, install(bus):
        launch_agent(config, "train.py", [])

`torch_monitor(bus)` hands the events of `torch.monitor` to a bus. Nothing here imports torch before torch is asked for.
"""

from typing import TYPE_CHECKING

from elastic_events import _lazily

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

if not TYPE_CHECKING:  # a type checker must still find a name that is not here
    __getattr__, __dir__ = _lazily(__name__, _HOME)
