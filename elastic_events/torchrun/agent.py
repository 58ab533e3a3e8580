"""What only the methods of torch's `LocalElasticAgent` see: each attempt's start, its failures, and who was told to end.

Every wrapper calls the original, returns what it returned and raises what it raised; what it does besides is shielded.
"""

import os
import time
from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from elastic_events.observe import VARIABLE
from elastic_events.observe.function import Observed
from elastic_events.observe.report import left_behind
from elastic_events.torchrun.repair import Exit, Fact, Repair, error_message
from elastic_events.torchrun.shield import shielded
from elastic_events.torchrun.stalls import Stuck, after

__all__ = ("watch",)

#: Workers whose ends are remembered: those of many restarts of the largest host.
EXIT_CODES = 4096


class Listener(Protocol):
    """Who is told."""

    repair: Repair
    exit_codes: dict[int, int]

    def advance(self, step: Callable[..., list[Fact]], *args: Any) -> None:
        """Let the repair take a step, and record what follows from it."""


def watch(listener: Listener) -> Callable[[], None]:
    """Wrap the methods of torch's agent for `listener`; return what takes the wrappers off again. Imports torch."""
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from torch.distributed.elastic.multiprocessing.api import MultiprocessContext, PContext

    seen = _Seen(listener)
    methods = [
        (LocalElasticAgent, "_initialize_workers", seen.initialize),
        (LocalElasticAgent, "_start_workers", seen.start),
        (LocalElasticAgent, "_monitor_workers", seen.monitor),
        (LocalElasticAgent, "_restart_workers", seen.restart),
        (LocalElasticAgent, "run", seen.run),
        (PContext, "close", seen.close),
        (MultiprocessContext, "_start", seen.start_functions),
    ]
    before = []
    for owner, name, wrapper in methods:
        original = getattr(owner, name, None)
        if original is None:
            continue  # another version of torch: the records alone must do
        before.append((owner, name, vars(owner).get(name)))
        setattr(owner, name, wraps(original)(wrapper(original)))

    def restore() -> None:
        for owner, name, own in reversed(before):
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)

    return restore


class _Seen:
    """One wrapper a method."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.repair = listener.repair
        # The workers that were alive when their group was first told to end: what ended them later is no cause.
        self._alive: WeakKeyDictionary[Any, set[int]] = WeakKeyDictionary()
        # By local rank, the wall clock when a worker was last seen alive, and when first dead: its peers may take long to end.
        self._died: WeakKeyDictionary[Any, dict[int, tuple[int | None, int]]] = WeakKeyDictionary()
        self._looked_ns = 0
        self._stuck: WeakKeyDictionary[Any, Stuck] = WeakKeyDictionary()
        self._after = after(os.environ.get("ELASTIC_EVENTS_STACKS_AFTER"))

    def initialize(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Rendezvous and start of an attempt."""

        def wrapper(agent: Any, *args: Any, **options: Any) -> Any:
            result = original(agent, *args, **options)
            self._started(agent)
            return result

        return wrapper

    def start(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """The start of the processes of an attempt: none of them has died before it."""

        def wrapper(agent: Any, *args: Any, **options: Any) -> Any:
            self._looked_ns = time.time_ns()
            return original(agent, *args, **options)

        return wrapper

    def monitor(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """One look at the workers, ten times a second."""

        def wrapper(agent: Any, *args: Any, **options: Any) -> Any:
            self._monitoring(agent)
            result = original(agent, *args, **options)
            self._monitored(agent, result)
            return result

        return wrapper

    def restart(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Stop and start of the workers, after a failure or for a new member."""

        def wrapper(agent: Any, *args: Any, **options: Any) -> Any:
            self._restarting(agent)
            return original(agent, *args, **options)

        return wrapper

    def run(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """The whole run of an agent."""

        def wrapper(agent: Any, *args: Any, **options: Any) -> Any:
            self._running(agent)
            try:
                result = original(agent, *args, **options)
            except BaseException as error:
                self._ran(agent, "stopped" if type(error).__name__ == "SignalException" else "failed")
                raise
            self._ran(agent, "left")  # where an attempt still runs, the rendezvous was left without a result
            return result

        return wrapper

    def close(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """The end of a group of processes."""

        def wrapper(context: Any, *args: Any, **options: Any) -> Any:
            self._closing(context)
            return original(context, *args, **options)

        return wrapper

    def start_functions(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """The start of workers that are functions."""

        def wrapper(context: Any, *args: Any, **options: Any) -> Any:
            self._observe(context)
            return original(context, *args, **options)

        return wrapper

    @shielded
    def _observe(self, context: Any) -> None:
        if os.environ.get(VARIABLE, "off") not in ("", "off"):
            context.entrypoint = Observed(context.entrypoint)

    @shielded
    def _started(self, agent: Any) -> None:
        group = agent.get_worker_group()
        about = {
            "group_rank": group.group_rank,
            "agent_restarts": group.spec.max_restarts - getattr(agent, "_remaining_restarts", group.spec.max_restarts),
        }
        seen = []
        for worker in group.workers:
            detail = {
                "local_rank": worker.local_rank,
                "world_size": worker.world_size,  # of all roles, which torch's own event does not say
                "group_world_size": group.group_world_size,
            }
            seen.append(({**about, "global_rank": worker.global_rank, "worker_id": worker.id}, detail))
        self.listener.advance(self.repair.started, seen)

    @shielded
    def _monitoring(self, agent: Any) -> None:
        if agent._pcontext is not None:
            self._looked_ns = self._look(agent._pcontext)

    @shielded
    def _monitored(self, agent: Any, result: Any) -> None:
        state = result.state.name
        if state in ("SUCCEEDED", "FAILED", "UNHEALTHY"):
            outcome = "succeeded" if state == "SUCCEEDED" else "failed"
            self.listener.advance(self.repair.exited, self._exits(agent, result.failures), outcome)
        elif agent._pcontext is not None:
            self._ask(agent._pcontext)

    @shielded
    def _ask(self, context: Any) -> None:
        stuck = self._stuck.setdefault(context, Stuck(self._after))
        for local_rank, about in stuck.look(time.monotonic(), getattr(context, "error_files", None) or {}):
            self.listener.advance(self.repair.stuck, local_rank, about)

    @shielded
    def _restarting(self, agent: Any) -> None:
        self.listener.advance(self.repair.restarting, agent.get_worker_group().state.name)

    @shielded
    def _running(self, agent: Any) -> None:
        spec = agent.get_worker_group().spec
        about = {
            key: getattr(spec, key, None) for key in ("role", "local_world_size", "max_restarts", "monitor_interval")
        }
        self.listener.advance(self.repair.begun, about)

    @shielded
    def _ran(self, agent: Any, outcome: str) -> None:
        self.listener.advance(self.repair.exited, self._exits(agent, {}), outcome)

    @shielded
    def _closing(self, context: Any) -> None:
        if context in self._alive:
            return
        self._alive[context] = {rank for rank, _pid, code in _processes(context) if code is None}
        if hasattr(context, "subprocess_handlers"):
            self._look(context)

    def _look(self, context: Any) -> int:
        """Note who is dead, now; return the time."""
        now, died = time.time_ns(), self._died.setdefault(context, {})
        for local_rank, _pid, code in _processes(context):
            if code is not None:
                died.setdefault(local_rank, (self._looked_ns or None, now))
        return now

    def _exits(self, agent: Any, failures: Any) -> list[Exit]:
        context = agent._pcontext
        if context is None:
            return []
        alive = self._alive.get(context, set())
        known = {failure.local_rank: failure for failure in failures.values()}
        died = self._died.setdefault(context, {})
        for local_rank in known if not hasattr(context, "subprocess_handlers") else ():
            # torch.multiprocessing saw it since our last look, and has ended the others before it said so.
            died.setdefault(local_rank, (self._looked_ns or None, time.time_ns()))
        self._look(context)
        exits = []
        for local_rank, pid, code in _processes(context):
            alive_ns, died_ns = died.get(local_rank, (None, None))
            end = partial(Exit, local_rank, pid=pid, alive_ns=alive_ns, died_ns=died_ns)
            if pid is not None and code is not None:
                _keep(self.listener.exit_codes, pid, code)
            failure = known.get(local_rank)
            if failure is not None:
                message, at = error_message(failure.error_file_data), float(failure.timestamp)
                left = _left(_error_file(context, local_rank), failure.error_file_data) or {}
                exits.append(end(failure.exitcode, message=message, time=at, victim=local_rank in alive, left=left))
            elif code is not None:
                # Workers that are functions: torch.multiprocessing ends the others itself, before the group is closed.
                exits.append(end(code, victim=local_rank in alive or bool(known)))
        return exits


def _keep(codes: dict[int, int], pid: int, code: int) -> None:
    """Note what a worker ended with; forget the oldest, whose recorders were looked at long ago."""
    codes.pop(pid, None)
    codes[pid] = code
    while len(codes) > EXIT_CODES:
        del codes[next(iter(codes))]


_left = shielded(left_behind)


def _error_file(context: Any, local_rank: int) -> str:
    files = getattr(context, "error_files", None) or {}
    return str(files.get(local_rank) or os.devnull)


def _processes(context: Any) -> Iterator[tuple[int, int | None, int | None]]:
    """Yield local rank, pid and exit code, None while it runs, of each process of torch's `PContext`."""
    handlers = getattr(context, "subprocess_handlers", None)
    if handlers is not None:
        for local_rank, handler in handlers.items():
            yield local_rank, handler.proc.pid, handler.proc.poll()
    else:
        group = getattr(context, "_pc", None)
        for local_rank, process in enumerate(group.processes if group is not None else ()):
            yield local_rank, process.pid, process.exitcode
