"""A launcher on trio: ends the group as soon as one of its workers fails, which it learns from the bus."""

import sys
from functools import partial
from pathlib import Path

import trio

from elastic_events import Event, EventBus, EventSource

WORKER = [sys.executable, str(Path(__file__).with_name("worker.py"))]


async def run_worker(bus: EventBus, rank: int) -> None:
    """Run one worker, and record how it ended."""
    env = bus.worker_env(rank=rank, local_rank=rank, world_size=2, attempt=0)
    ended = await trio.run_process([*WORKER, "die"] if rank else WORKER, env=env, check=False)
    name = "worker.failed" if ended.returncode else "worker.succeeded"
    bus.record(Event(name, EventSource.AGENT, metadata={"rank": rank, "exit_code": ended.returncode}))


async def main() -> None:
    async with EventBus("jsonl:///job.jsonl") as bus:
        await bus.collect("recorders")
        async with bus.listen("worker.*") as events, trio.open_nursery() as workers:
            for rank in range(2):
                workers.start_soon(partial(run_worker, bus, rank))
            async for one in events:
                print(one.name, dict(one.metadata))
                if one.name == "worker.failed":
                    workers.cancel_scope.cancel()
                    break
        (await bus.flush(timeout=30)).raise_if_undelivered()
        print(bus)


trio.run(main)
