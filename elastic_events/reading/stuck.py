"""Where ranks that made no step any more were, as their agent had their stacks."""

from collections.abc import Iterator, Sequence

import msgspec

from elastic_events.reading.said import integer
from elastic_events.reading.story import Attempt, Story, Worker
from elastic_events.reading.words import seconds, spans

__all__ = ("Stuck", "places", "stuck")


class Stuck(msgspec.Struct, frozen=True):
    """The last stack of a rank that made no step after it."""

    rank: int | None  #: of the whole job
    node: str  #: of its agent, empty if unknown
    attempt: int  #: in which
    at_s: float  #: when, in seconds from the beginning of the job
    idle_s: float | None  #: without a step, until then
    file: str | None  #: the innermost frame of the script's own code
    line: int | None  #: in `file`
    function: str | None  #: the function there
    stack: str | None  #: of its main thread, then of the others, in short: frames of frameworks are folded
    others: list[str] = []  #: where its other threads were, and its forked children: "child 7013 at data.py:4 in load"


def stuck(story: Story) -> list[Stuck]:
    """Return where ranks were that made no step any more, in order of attempts and ranks."""
    return [
        _stuck(story, attempt, worker)
        for attempt in story.attempts
        for worker in attempt.workers
        if worker.asked_ns and worker.outcome != "succeeded" and _last_step_ns(worker) <= worker.asked_ns
    ]


def _stuck(story: Story, attempt: Attempt, worker: Worker) -> Stuck:
    said, at = worker.stack, (worker.asked_ns - story.began_ns) / 1e9
    idle, line = said.get("idle_s"), integer(said.get("line"))
    texts = {
        name: value for name in ("file", "function", "stack", "others") if isinstance(value := said.get(name), str)
    }
    return Stuck(
        worker.rank,
        worker.place,
        attempt.number,
        at,
        float(idle) if isinstance(idle, int | float) else None,
        texts.get("file"),
        line,
        texts.get("function"),
        texts.get("stack"),
        texts.get("others", "").splitlines(),
    )


def places(answer: Sequence[Stuck]) -> Iterator[str]:
    """Give a sentence for each place at which ranks were, in their last attempt first."""
    groups: dict[tuple[int, str], list[Stuck]] = {}
    for one in answer:
        where = f"at {one.file}:{one.line} in {one.function}" if one.file else "nobody knows where"
        groups.setdefault((-one.attempt, where), []).append(one)
    for (attempt, where), found in sorted(groups.items(), key=lambda group: group[0][0]):
        ranks = sorted(one.rank for one in found if one.rank is not None)
        idle = max((one.idle_s for one in found if one.idle_s is not None), default=None)
        who = f"Rank{'s' * (len(ranks) > 1)} {spans(ranks)}" if ranks else "A worker"
        without = f", without a step for {seconds(idle)}" if idle is not None else ""
        yield f"{who} {'were' if len(ranks) > 1 else 'was'} {where} in attempt {-attempt}{without}."
    last = max((one.attempt for one in answer), default=0)
    for one in answer:
        if one.others and one.attempt == last:
            who = "a worker" if one.rank is None else f"rank {one.rank}"
            yield f"Also of {who}: {'; '.join(one.others)}."


def _last_step_ns(worker: Worker) -> int:
    process = worker.process
    if process is None or not process.starts:
        return 0
    return max(process.starts[-1], process.ends[-1])
