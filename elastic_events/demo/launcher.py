"""The demo's launcher: starts the workers, restarts the group when one dies, collects what all of them recorded."""

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import Process, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from elastic_events import Event, EventBus, EventSource, Record
from elastic_events.bus.context import read_context

__all__ = ("Job",)


class Job:
    """One run of the demo. `run()` leaves every record in `database`.

    Args:
        database: the SQLite file to be written.
        folder: where the workers' flight recorders and the checkpoint go.
        workers: how many processes.
        steps: how many training steps.
        kill: the rank that is killed with SIGKILL once, and the step after which; None for nobody.
        watch: called with each record as it arrives, for a progress display.
    """

    def __init__(
        self,
        database: Path,
        folder: Path,
        *,
        workers: int = 4,
        steps: int = 120,
        kill: tuple[int, int] | None = (2, 70),
        watch: Callable[[Record], object] = lambda _record: None,
    ) -> None:
        self.database = database
        self.folder = folder
        self.workers = workers
        self.steps = steps
        self.kill = kill
        self.watch = watch
        self.run_id: str = f"demo-{secrets.token_hex(3)}"
        self.attempt: int = 0
        self.processes: dict[int, Process] = {}
        self.bus: EventBus | None = None

    async def run(self, restarts: int = 3) -> EventBus:
        """Run the job to its end; return the closed bus, whose `stats()` is the ledger."""
        context = read_context({**os.environ, "ELASTIC_EVENTS_RUN_ID": self.run_id})
        recorders = self.folder / "recorders"
        async with EventBus(f"sqlite:///{self.database}", context=context, timeout=10) as bus:
            self.bus = bus
            bus.subscribe(self._watch, name="progress")
            await bus.collect(recorders)
            self.record("job.started", workers=self.workers, steps=self.steps)
            done = False
            while not done and self.attempt <= restarts:
                done = await self._attempt()
                self.attempt += 1
            self.record("job.succeeded" if done else "job.failed", attempts=self.attempt)
            await bus.flush(10)  # what the workers recorded, too
        return bus

    def record(self, name: str, **metadata: Any) -> None:
        """Record one event of the launcher."""
        assert self.bus is not None
        self.bus.record(Event(name, EventSource.AGENT, metadata=metadata))

    async def _attempt(self) -> bool:
        """Run one group of workers until all are done, or one has died; return whether all are done."""
        self.record("attempt.started", attempt=self.attempt, world_size=self.workers, ranks=list(range(self.workers)))
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - this is no Django
        ends: list[tuple[int, int]] = []
        async with listener, anyio.create_task_group() as tasks:
            reduce = _Reduce(self.workers, self._stepped)
            tasks.start_soon(listener.serve, reduce.serve)
            async with anyio.create_task_group() as watchers:
                for rank in range(self.workers):
                    self.processes[rank] = await self._start(rank, port)
                    watchers.start_soon(self._wait, rank, ends)
            tasks.cancel_scope.cancel()
        done = all(code == 0 for _, code in ends)
        self.record("attempt.ended", attempt=self.attempt, outcome="succeeded" if done else "failed")
        return done

    async def _start(self, rank: int, port: int) -> Process:
        assert self.bus is not None
        process = await anyio.open_process(
            [sys.executable, "-m", "elastic_events.demo.worker"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={
                **self.bus.worker_env(
                    rank=rank, local_rank=rank, world_size=self.workers, attempt=self.attempt, role="trainer"
                ),
                "DEMO_PORT": str(port),
                "DEMO_STEPS": str(self.steps),
                "DEMO_CHECKPOINT": str(self.folder / "checkpoint.json"),
            },
        )
        self.record("worker.started", rank=rank, local_rank=rank, pid=process.pid, attempt=self.attempt)
        return process

    async def _wait(self, rank: int, ends: list[tuple[int, int]]) -> None:
        """Wait for one worker; the first that dies takes the group with it, as in torch's elastic agent."""
        process = self.processes[rank]
        code = await process.wait()
        first = not any(other for _, other in ends) and code != 0
        ends.append((rank, code))
        facts = {"rank": rank, "local_rank": rank, "pid": process.pid, "attempt": self.attempt}
        if code == 0:
            self.record("worker.succeeded", **facts)
            return
        ended_by = {"signal": signal.Signals(-code).name} if code < 0 else {"exit_code": code}
        self.record("worker.failed", **facts, **ended_by, first=first, victim=not first)
        if first:
            for other, peer in self.processes.items():
                if other != rank and peer.returncode is None:
                    peer.send_signal(signal.SIGTERM)

    def _stepped(self, number: int) -> None:
        """Kill the chosen worker, once, after the chosen step."""
        if self.kill is not None and number == self.kill[1] and self.attempt == 0:
            self.processes[self.kill[0]].send_signal(signal.SIGKILL)

    async def _watch(self, record: Record) -> None:
        self.watch(record)


class _Reduce:
    """Means of the workers' vectors: waits for all of them, answers all of them."""

    def __init__(self, workers: int, stepped: Callable[[int], object]) -> None:
        self.workers = workers
        self.stepped = stepped
        self.round = 0
        self._given: dict[int, list[float]] = {}
        self._mean: bytes = b""
        self._ready = anyio.Event()

    async def serve(self, stream: SocketStream) -> None:
        """Serve one worker until it goes."""
        lines = BufferedByteReceiveStream(stream)
        try:
            async with stream:
                rank = json.loads(await lines.receive_until(b"\n", 64))
                while True:
                    vector = json.loads(await lines.receive_until(b"\n", 2**20))
                    await stream.send(await self._join(rank, vector))
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # the worker is done, or dead: its process says which

    async def _join(self, rank: int, vector: list[float]) -> bytes:
        self._given[rank] = vector
        ready = self._ready
        if len(self._given) == self.workers:
            columns = zip(*self._given.values(), strict=True)
            self._mean = json.dumps([sum(column) / self.workers for column in columns]).encode() + b"\n"
            self._given, self._ready = {}, anyio.Event()
            self.stepped(self.round)
            self.round += 1
            ready.set()
        await ready.wait()
        return self._mean
