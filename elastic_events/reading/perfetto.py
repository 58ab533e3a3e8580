"""A run as a trace for Perfetto (ui.perfetto.dev) or chrome://tracing.

The format is the Trace Event Format's JSON: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
Times are microseconds from the beginning of the job. A node is a process, a rank a thread.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, count
from operator import attrgetter
from typing import Any

import msgspec

from elastic_events.reading.story import Attempt, Node, Process, Story, Worker

__all__ = ("trace", "trace_events")

# No process and no thread is 0: that is Linux's idle one, which Perfetto calls "swapper", or takes together with thread 1.
_JOB = 1  # the process of what concerns the whole job, and its thread
_RENDEZVOUS = 1  # the thread of a node that is its agent


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
        self.nodes: dict[Node | str, int] = {node: number for number, node in enumerate(story.nodes, 2)}
        self.places: dict[Worker, tuple[int, int]] = {}
        self.lives: dict[Worker, tuple[int, int]] = {}  # the slice of each worker
        self._ends: dict[tuple[int, int], int] = {}  # of each track's last outermost slice
        self._ids = count()
        for attempt in story.attempts:
            self._give_places(attempt)

    def events(self) -> Iterator[dict[str, Any]]:
        yield from _named(_JOB, "process", f"job {self.story.run_id}", 0)
        for node, number in self.nodes.items():
            name = node if isinstance(node, str) else node.name
            yield from _named(number, "process", f"node {name}", number)
            yield from _named(number, "thread", "rendezvous", 0, _RENDEZVOUS)
        yield from self._track_names()
        previous: Attempt | None = None
        for attempt in self.story.attempts:
            yield from self._attempt(attempt)
            yield from self._arrows(previous, attempt)
            previous = attempt
        yield from self._running()

    def _give_places(self, attempt: Attempt) -> None:
        """Give each worker a track, the same one in every attempt, which it shares with no other of this one."""
        taken: set[tuple[int, int]] = set()
        for worker in attempt.workers:
            process = self.nodes.setdefault(worker.node or worker.host, len(self.nodes) + 2)
            slot = worker.local_rank if worker.local_rank is not None else worker.rank
            thread = 2 + max(0, slot or 0)
            while (process, thread) in taken:
                thread += 1
            taken.add((process, thread))
            self.places[worker] = process, thread

    def _track_names(self) -> Iterator[dict[str, Any]]:
        """A track that was of several ranks, as membership changed, has the name of none of them."""
        ranks: dict[tuple[int, int], dict[int | None, None]] = {}
        for worker, place in self.places.items():
            ranks.setdefault(place, {})[worker.rank] = None
        for (process, thread), own in ranks.items():
            name = f"rank {next(iter(own))}" if len(own) == 1 and None not in own else f"worker {thread - 2}"
            yield from _named(process, "thread", name, thread, thread)

    def _attempt(self, attempt: Attempt) -> Iterator[dict[str, Any]]:
        start, end = self._outermost((_JOB, _JOB), *self.story.span(attempt))
        about = {"attempt": attempt.number, "outcome": attempt.outcome, "world_size": attempt.world_size}
        yield self._slice(_JOB, _JOB, f"attempt {attempt.number}", start, end, about)
        for r in sorted(attempt.rendezvous, key=attrgetter("start_ns")):
            told = {"round": r.round, "rank": r.rank, "nodes": r.world_size, "completed": r.completed}
            place = self.nodes[r.node], _RENDEZVOUS
            yield self._slice(*place, "rendezvous", *self._outermost(place, r.start_ns, r.end_ns), told)
        first = attempt.first_failure
        for worker in attempt.workers:
            yield from self._worker(attempt, worker, *self.story.span(attempt))
            if worker.outcome == "failed":
                yield self._failure(worker, worker is first)

    def _worker(self, attempt: Attempt, worker: Worker, began: int, over: int) -> Iterator[dict[str, Any]]:
        place = self.places[worker]
        start = worker.started_ns if worker.started_ns is not None else began
        start, end = self._outermost(place, start, worker.ended_ns if worker.ended_ns is not None else over)
        self.lives[worker] = start, end
        about = {"attempt": attempt.number, "rank": worker.rank, "pid": worker.pid, "outcome": worker.outcome}
        name = "worker" if worker.rank is None else f"rank {worker.rank}"
        yield self._slice(*place, f"{name}, attempt {attempt.number}", start, end, about)
        if worker.process is not None:
            yield from self._marks(worker.process, *place, start, end)

    def _outermost(self, place: tuple[int, int], start: int, end: int) -> tuple[int, int]:
        """Return the times of a slice that no other is around, behind the one before it on its track.

        Clocks of hosts that differ by less than is corrected would let the slices overlap, and those of a track have to nest.
        """
        start = max(start, self._ends.get(place, self.story.began_ns))
        end = self._ends[place] = max(start, end)
        return start, end

    def _failure(self, worker: Worker, first: bool) -> dict[str, Any]:
        process, thread = self.places[worker]
        name = "ended by its agent" if worker.victim else f"failed: {worker.cause or 'cause unknown'}"
        facts = {"cause": worker.cause, "message": worker.message, "first": first}
        ts = self._ts(self.lives[worker][1])
        return {"ph": "i", "s": "t", "name": name, "pid": process, "tid": thread, "ts": ts, "args": facts}

    def _marks(self, own: Process, process: int, thread: int, start: int, end: int) -> Iterator[dict[str, Any]]:
        """Steps and what else a process marked, cut to its life, since a slice may not outlive the one around it.

        What overlaps another without lying in it, or went on beside the steps, has a row of its own.
        """
        open_: list[int] = []  # the ends of the slices around
        for begin, until, name, args, blocking in sorted(_marked(own, start, end), key=lambda one: (one[0], -one[1])):
            while open_ and open_[-1] <= begin:
                open_.pop()
            if blocking and (not open_ or until <= open_[-1]):
                open_.append(until)
                yield self._slice(process, thread, name, begin, until, args)
                continue
            place = {"pid": process, "tid": thread, "cat": name, "name": name, "id": str(next(self._ids))}
            yield {"ph": "b", "ts": self._ts(begin), "args": args, **place}
            yield {"ph": "e", "ts": self._ts(until), **place}

    def _arrows(self, before: Attempt | None, attempt: Attempt) -> Iterator[dict[str, Any]]:
        """An arrow from what ended the attempt before to each node's first worker of this one."""
        first = before.first_failure if before is not None else None
        if before is None or first is None or first.ended_ns is None:
            return
        process, thread = self.places[first]
        start, end = self.lives[first]
        seen: set[int] = set()
        for worker in attempt.workers:
            to_process, to_thread = self.places[worker]
            if to_process in seen or worker.started_ns is None:
                continue
            seen.add(to_process)
            # A number, since Perfetto reads text as a hexadecimal one, and drops an arrow whose id is none.
            arrow = {"cat": "restart", "name": "restart", "id": next(self._ids)}
            until = self.lives[worker][0]
            # It binds to the slice that it begins in; the end of a slice is no longer in it.
            begin = max(start, min(end - 1, until))
            yield {"ph": "s", "pid": process, "tid": thread, "ts": self._ts(begin), **arrow}
            yield {"ph": "f", "bp": "e", "pid": to_process, "tid": to_thread, "ts": self._ts(until), **arrow}

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

    def _slice(
        self, process: int, thread: int, name: str, start: int, end: int, args: dict[str, Any]
    ) -> dict[str, Any]:
        place = {"ph": "X", "pid": process, "tid": thread, "name": name}
        return {**place, "ts": self._ts(start), "dur": max(0, end - start) / 1e3, "args": args}

    def _ts(self, time_ns: int) -> float:
        return (time_ns - self.story.began_ns) / 1e3


def _marked(own: Process, start: int, end: int) -> Iterator[tuple[int, int, str, dict[str, Any], bool]]:
    """Give what a process marked between `start` and `end`: begin, end, name, facts, whether the steps waited for it."""
    if own.starts:
        yield start, min(end, max(start, own.starts[0])), "start-up", {}, True
    for number, begin, stop in zip(own.steps, own.starts, own.ends, strict=True):
        begin, until = max(begin, start), min(stop or end, end)  # noqa: PLW2901
        if until >= begin:
            yield begin, until, "step", {"step": number, "finished": bool(stop)}, True
    for span in own.spans:
        begin, until = max(span.start_ns, start), min(span.end_ns or end, end)
        if until >= begin:
            yield begin, until, span.what, {"step": span.step}, span.blocking


def _named(process: int, what: str, name: str, order: int, thread: int = 1) -> Iterable[dict[str, Any]]:
    place = {"ph": "M", "pid": process, "tid": thread}
    return (
        {**place, "name": f"{what}_name", "args": {"name": name}},
        {**place, "name": f"{what}_sort_index", "args": {"sort_index": order}},
    )
