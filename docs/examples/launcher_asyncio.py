"""A launcher on asyncio: starts two workers, starts them again when one dies, and has all that they recorded in job.db."""

import asyncio
import sys
from pathlib import Path

from elastic_events import Context, Event, EventBus, EventSource, Record

WORKER = [sys.executable, str(Path(__file__).with_name("worker.py"))]
RANKS = 2


async def page(one: Record) -> None:
    """Tell somebody. A page that cannot be sent ends the launcher: `on_failure`."""
    print("page:", one.name, dict(one.metadata))


async def attempt(bus: EventBus, number: int) -> bool:
    """Run the group once; return whether all of it succeeded."""
    about = bus.bind(attempt=number)
    workers = []
    for rank in range(RANKS):
        env = bus.worker_env(rank=rank, local_rank=rank, world_size=RANKS, attempt=number)
        extra = ["die"] if rank == 1 else []
        workers.append(await asyncio.create_subprocess_exec(*WORKER, *extra, env=env))
        about.record(Event("worker.started", EventSource.AGENT, metadata={"rank": rank, "pid": workers[-1].pid}))
    codes = await asyncio.gather(*(worker.wait() for worker in workers))
    for rank, code in enumerate(codes):
        name = "worker.failed" if code else "worker.succeeded"
        about.record(Event(name, EventSource.AGENT, metadata={"rank": rank, "exit_code": code}))
    return not any(codes)


async def main() -> None:
    async with EventBus("sqlite:///job.db", context=Context(run_id="example")) as bus:
        bus.subscribe(page, events="worker.failed", on_failure="raise")
        await bus.collect("recorders", on_failure="raise")
        for number in range(3):
            if await attempt(bus, number):
                break
        (await bus.flush(timeout=30)).raise_if_undelivered()  # the workers' records, too
        print(bus)


asyncio.run(main())
