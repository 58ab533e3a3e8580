"""Nodes of a static rendezvous that went on while another restarted: without a rendezvous each restarts by itself.

What their workers did from then on they did in the attempt that the others began: they had waited for it.
"""

from collections.abc import Iterable

from elastic_events.reading.story import Attempt, Node

__all__ = ("join_those_that_stayed",)


def join_those_that_stayed(attempts: list[Attempt]) -> None:
    """Give each attempt that lacks nodes those that were still in an earlier one; these leave that one as its members change."""
    moved: list[tuple[Node, Attempt, int]] = []
    for at in reversed(range(1, len(attempts))):
        later = attempts[at]
        lacks = (later.group_size or 0) - len(later.nodes)
        if later.round is None and later.started_ns is not None and lacks > 0:
            found = [
                (node, place) for node, place in _before(attempts[:at], later) if _stayed(attempts[place], node, later)
            ]
            for node, place in found if len(found) <= lacks else ():
                _move(node, attempts[place], later)
                moved += ((node, left, later.started_ns) for left in attempts[place:at])
    for node, left, time_ns in moved:
        if node not in left.nodes:
            left.nodes.append(node)
            left.ends[node] = time_ns, "membership"


def _before(attempts: list[Attempt], later: Attempt) -> Iterable[tuple[Node, int]]:
    """Return the nodes that `later` lacks, each with the last attempt that it was in, as all nodes of `later` were."""
    found: dict[Node, int] = {}
    for place, attempt in enumerate(attempts):
        if attempt.round is None and all(node in attempt.nodes for node in later.nodes):
            found.update((node, place) for node in attempt.nodes if node not in later.nodes)
    return found.items()


def _stayed(attempt: Attempt, node: Node, later: Attempt) -> bool:
    """Whether a node was in `attempt` when `later` began, and its workers had made no step without the others."""
    begun = later.started_ns or 0
    over = attempt.ends[node][0] if node in attempt.ends else node.last_ns
    processes = [worker.process for worker in attempt.workers if worker.node is node and worker.process is not None]
    steps = [process.first_step_ns for process in processes if process.first_step_ns is not None]
    return over > begun and all(step >= begun for step in steps)


def _move(node: Node, attempt: Attempt, later: Attempt) -> None:
    attempt.nodes.remove(node)
    later.nodes.append(node)
    later.workers += (worker for worker in attempt.workers if worker.node is node)
    attempt.workers[:] = (worker for worker in attempt.workers if worker.node is not node)
    if node in attempt.ends:
        later.ends[node] = attempt.ends.pop(node)
        later.ended_ns = max(later.ended_ns or 0, later.ends[node][0])
        attempt.ended_ns = max([end for end, _ in attempt.ends.values()], default=later.started_ns)
    for rendezvous in list(attempt.rendezvous):
        if rendezvous.node is node and rendezvous.end_ns > (
            attempt.ended_ns or 0
        ):  # of a restart that met the others late
            attempt.rendezvous.remove(rendezvous)
            later.rendezvous.append(rendezvous)
