"""A run as a trace for Perfetto (ui.perfetto.dev) or chrome://tracing.

The format is the Trace Event Format's JSON: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
Times are microseconds from the beginning of the job. A node is a process, a rank a thread.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import msgspec

from elastic_events.reading.story import Attempt, Node, Process, Story, Worker

__all__ = ("trace", "trace_events")

_JOB = 0  # the process of what concerns the whole job
_RENDEZVOUS = 0  # the thread of a node that is its agent


def trace(story: Story) -> Iterator[str]:
    """Yield the trace piece by piece: together one JSON document."""
    yield '{"displayTimeUnit":"ms","traceEvents":[\n'
    first = True
    for event in trace_events(story):
        yield ("" if first else ",\n") + msgspec.json.encode(event).decode()
        first = False
    yield "\n]}\n"


def trace_events(story: Story) -> Iterator[dict[str, Any]]:
    """Yield the events of the trace, in no particular order, as the format allows."""
    return _Trace(story).events()


class _Trace:
    def __init__(self, story: Story) -> None:
        self.story = story
        self.nodes: dict[Node | None, int] = {node: number for number, node in enumerate(story.nodes, 1)}
        self.threads: set[tuple[int, int]] = set()

    def events(self) -> Iterator[dict[str, Any]]:
        yield from _named(_JOB, "process", f"job {self.story.run_id}", 0)
        for node, number in self.nodes.items():
            if node is not None:
                yield from _named(number, "process", f"node {node.name}", number)
                yield from _named(number, "thread", "rendezvous", 0, _RENDEZVOUS)
        previous: Attempt | None = None
        for attempt in self.story.attempts:
            yield from self._attempt(attempt)
            yield from self._arrows(previous, attempt)
            previous = attempt
        yield from self._running()

    def _attempt(self, attempt: Attempt) -> Iterator[dict[str, Any]]:
        start, end = self.story.span(attempt)
        about = {"attempt": attempt.number, "outcome": attempt.outcome, "world_size": attempt.world_size}
        yield self._slice(_JOB, 0, f"attempt {attempt.number}", start, end, about)
        for r in attempt.rendezvous:
            told = {"round": r.round, "rank": r.rank, "nodes": r.world_size, "completed": r.completed}
            yield self._slice(self.nodes[r.node], _RENDEZVOUS, "rendezvous", r.start_ns, r.end_ns, told)
        first = attempt.first_failure
        for worker in attempt.workers:
            yield from self._worker(attempt, worker, start, end)
            if worker.outcome == "failed":
                yield self._failure(worker, worker is first, end)

    def _worker(self, attempt: Attempt, worker: Worker, began: int, over: int) -> Iterator[dict[str, Any]]:
        process, thread = self._place(worker)
        if (process, thread) not in self.threads:
            self.threads.add((process, thread))
            yield from _named(process, "thread", f"rank {worker.rank}", thread, thread)
        start = worker.started_ns if worker.started_ns is not None else began
        end = max(start, worker.ended_ns if worker.ended_ns is not None else over)
        about = {"attempt": attempt.number, "rank": worker.rank, "pid": worker.pid, "outcome": worker.outcome}
        yield self._slice(process, thread, f"worker, attempt {attempt.number}", start, end, about)
        if worker.process is not None:
            yield from self._marks(worker.process, process, thread, start, end)

    def _failure(self, worker: Worker, first: bool, over: int) -> dict[str, Any]:
        process, thread = self._place(worker)
        name = "ended by its agent" if worker.victim else f"failed: {worker.cause or 'cause unknown'}"
        facts = {"cause": worker.cause, "message": worker.message, "first": first}
        ts = self._ts(worker.ended_ns if worker.ended_ns is not None else over)
        return {"ph": "i", "s": "t", "name": name, "pid": process, "tid": thread, "ts": ts, "args": facts}

    def _marks(self, own: Process, process: int, thread: int, start: int, end: int) -> Iterator[dict[str, Any]]:
        """Steps and what else a process marked, cut to its life, since a slice may not outlive the one around it."""
        if own.starts:
            yield self._slice(process, thread, "start-up", start, min(end, max(start, own.starts[0])), {})
        for number, begin, stop in zip(own.steps, own.starts, own.ends, strict=True):
            begin, until = max(begin, start), min(stop or end, end)  # noqa: PLW2901
            if until >= begin:
                yield self._slice(process, thread, "step", begin, until, {"step": number, "finished": bool(stop)})
        for span in own.spans:
            begin, until = max(span.start_ns, start), min(span.end_ns or end, end)
            if until >= begin and span.blocking:
                yield self._slice(process, thread, span.what, begin, until, {"step": span.step})
            elif until >= begin:  # beside a step: on a row of its own, as slices of one row have to nest
                place = {"pid": process, "tid": thread, "cat": span.what, "name": span.what, "id": f"{id(span):x}"}
                yield {"ph": "b", "ts": self._ts(begin), "args": {"step": span.step}, **place}
                yield {"ph": "e", "ts": self._ts(until), **place}

    def _arrows(self, before: Attempt | None, attempt: Attempt) -> Iterator[dict[str, Any]]:
        """An arrow from what ended the attempt before to each node's first worker of this one."""
        first = before.first_failure if before is not None else None
        if before is None or first is None or first.ended_ns is None:
            return
        process, thread = self._place(first)
        seen: set[Node | None] = set()
        for worker in attempt.workers:
            if worker.node in seen or worker.started_ns is None:
                continue
            seen.add(worker.node)
            to_process, to_thread = self._place(worker)
            arrow = {"cat": "restart", "name": "restart", "id": f"{attempt.number}-{to_process}"}
            yield {"ph": "s", "pid": process, "tid": thread, "ts": self._ts(first.ended_ns), **arrow}
            end = {"pid": to_process, "tid": to_thread, "ts": self._ts(worker.started_ns)}
            yield {"ph": "f", "bp": "e", **end, **arrow}

    def _running(self) -> Iterator[dict[str, Any]]:
        changes = sorted(
            chain.from_iterable(
                ((worker.started_ns, 1), (worker.ended_ns, -1))
                for worker in self.story.workers()
                if worker.started_ns is not None and worker.ended_ns is not None
            )
        )
        running, last = 0, None
        for at, (time_ns, change) in enumerate(changes):
            running += change
            if at + 1 == len(changes) or changes[at + 1][0] != time_ns:
                if running != last:
                    yield self._counter(time_ns, running)
                last = running

    def _counter(self, time_ns: int, running: int) -> dict[str, Any]:
        return {
            "ph": "C",
            "pid": _JOB,
            "name": "running workers",
            "ts": self._ts(time_ns),
            "args": {"workers": running},
        }

    def _place(self, worker: Worker) -> tuple[int, int]:
        slot = worker.local_rank if worker.local_rank is not None else worker.rank
        return self.nodes.setdefault(worker.node, len(self.nodes) + 1), 1 + (slot or 0)

    def _slice(
        self, process: int, thread: int, name: str, start: int, end: int, args: dict[str, Any]
    ) -> dict[str, Any]:
        place = {"ph": "X", "pid": process, "tid": thread, "name": name}
        return {**place, "ts": self._ts(start), "dur": max(0, end - start) / 1e3, "args": args}

    def _ts(self, time_ns: int) -> float:
        return (time_ns - self.story.began_ns) / 1e3


def _named(process: int, what: str, name: str, order: int, thread: int = 0) -> Iterable[dict[str, Any]]:
    place = {"ph": "M", "pid": process, "tid": thread}
    return (
        {**place, "name": f"{what}_name", "args": {"name": name}},
        {**place, "name": f"{what}_sort_index", "args": {"sort_index": order}},
    )
