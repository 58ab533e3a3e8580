"""torchrun with a fault planted first, or with a sink in a thread: `driver.py PLANT TORCHRUN-ARGUMENTS...`."""

import asyncio
import os
import sys
from typing import Any


def broken(*_args: Any, **_options: Any) -> Any:
    """Stand in for any function of ours."""
    raise RuntimeError("planted")


class Sink:
    """A sink that raises, or takes a second a record. Only the thread of the agent has it: a collector knows its own."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    async def open(self) -> None:
        """Fail, where that is the plant."""
        if self.kind == "unopenable":
            broken()

    async def write(self, records: Any) -> None:
        """Fail, or take long."""
        if self.kind == "raising":
            broken()
        await asyncio.sleep(len(records))

    async def aclose(self) -> None:
        """Nothing to close."""


def plant(what: str) -> None:
    """Put the fault in its place."""
    if what.startswith("sink:"):
        from elastic_events.recorder import launch
        from elastic_events.sinks.urls import SCHEMES

        launch.SHELL = "/no/such/shell"
        SCHEMES["test"] = lambda _url: Sink(what.partition(":")[2])
        return
    if what == "register":
        from elastic_events.torchrun import plugin

        plugin._make_ready = broken
    elif what == "begin":
        from elastic_events.torchrun import agent_recorder

        agent_recorder.begin = broken
    elif what == "link":
        from elastic_events.recorder.link import Link

        Link.open = broken
    elif what == "repair":
        from elastic_events.torchrun.repair import Repair

        for name in ("begun", "started", "event", "rendezvous", "exited", "restarting"):
            setattr(Repair, name, broken)
    elif what == "seen":
        from elastic_events.torchrun import agent

        agent._processes = broken
    elif what == "record":
        from elastic_events.torchrun import agent_recorder

        methods = {"record": broken, "record_rdzv_event": broken, "put_metric": broken}
        agent_recorder.Emitter = lambda *_rings: type("Broken", (), methods)()


def main() -> None:
    """Plant, then be torchrun."""
    plant(sys.argv[1])
    arguments = sys.argv[2:]
    sys.argv = ["torchrun", *arguments]
    from torch.distributed.run import main as torchrun

    from elastic_events.cli.run import torch_looks_for_plugins

    if not torch_looks_for_plugins():
        from elastic_events.torchrun import plugin

        os.environ["ELASTIC_EVENTS_TORCHRUN"] = "1"
        plugin.register()
    torchrun(arguments)


if __name__ == "__main__":
    main()
