"""Goodput in a terminal."""

from collections.abc import Iterator
from textwrap import fill

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from elastic_events.bus.text import counted
from elastic_events.reading.buckets import BUCKETS, Bucket, Goodput, headline
from elastic_events.reading.narrow import Fitted
from elastic_events.reading.observed import ROUNDS
from elastic_events.reading.shown import shown
from elastic_events.reading.words import by_attempt, seconds

__all__ = ("explain", "goodput_terminal")

_COLOURS = {
    "productive": "green",
    "lost": "red",
    "checkpoint": "blue",
    "startup": "cyan",
    "rendezvous": "magenta",
    "detection": "yellow",
    "requeue": "bright_magenta",
    "unknown": "white",
    "idle": "bright_black",
}

_HEADS = {
    "productive": "produc-\ntive",
    "checkpoint": "check-\npoint",
    "startup": "start-\nup",
    "rendezvous": "rendez-\nvous",
    "detection": "detec-\ntion",
    "requeue": "re-\nqueue",
    "unknown": "un-\nknown",
}

_EXPLAINED = """
The wall time runs from the start of the job to its end, or to the last record where it has not ended. The time in a
scheduler's queue is not part of it. Each nanosecond of it is in one bucket; where several would claim it, the first
of this list does:

A step that was cut off counts as lost for as long as the longest step of the job took, and beyond that as detection:
a rank hung. Steps after the last checkpoint of a job that failed for good count as productive, since nobody did them
again. A step that an exception left which the script caught does not count, nor does it end the training.

Done again: an attempt goes on with the first step that it marks. Where numbers only rise, it does again all steps of
earlier attempts from that number on. Within a process a number that falls is a new epoch or another loop, and takes
nothing back; behind a restore of an earlier step it is a rollback. Where numbers begin anew in each epoch, what is
done again begins at the restored checkpoint where both are marked, else at the last step of the number that the
attempt began with; where that epoch may as well have been finished, nothing counts as lost. step(n, epoch=e) tells it
exactly. Where observed steps go on from a checkpoint that nobody saw saved, those before it are unknown, and ETTR lies
between productive / wall time and (productive + unknown) / wall time.

Events: job.*, attempt.*, worker.* and rendezvous.completed by the launcher, the torchrun plug-in or, in part, torch;
step.*, checkpoint.* and restore.* by the training loop: with elastic_events.step(n), checkpoint(n), restore(n).

ETTR: Kokolis et al., Revisiting Reliability in Large-Scale Machine Learning Research Clusters, 2024, arXiv
2410.21680, which counts productive runtime over the wall time that was available to the job.
"""


def goodput_terminal(answer: Goodput, width: int = 80) -> RenderableType:
    """Draw the goodput for a terminal of `width` columns."""
    answer = shown(answer)
    head = Text.assemble(f"Run {answer.run_id}: ", (headline(answer), "bold"), " (ETTR).")
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("")
    table.add_column("time", justify="right")
    table.add_column("share", justify="right")
    table.add_column("", no_wrap=True)
    longest = max((bucket.share for bucket in answer.buckets), default=0) or 1
    room = max(10, min(40, width - 40))
    for bucket in _told(answer):
        bar = Text("█" * round(bucket.share / longest * room), style=_COLOURS[bucket.name])
        table.add_row(bucket.name, seconds(bucket.seconds), f"{bucket.share:.1%}", bar)
    table.add_section()
    table.add_row("wall time", seconds(answer.wall_s), "100.0%", "")
    return Group(head, Fitted(table), *_by_attempt(answer), *map(Text, _remarks(answer)))


def _told(answer: Goodput) -> list[Bucket]:
    """Return the buckets to show: not what is rare and empty."""
    return [bucket for bucket in answer.buckets if bucket.seconds or bucket.name not in ("requeue", "unknown")]


def _by_attempt(answer: Goodput) -> list[RenderableType]:
    if len(answer.attempts) < 2:
        return []
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("#", justify="right")
    names = [bucket.name for bucket in _told(answer)]
    for name in names:
        table.add_column(_HEADS.get(name, name), justify="right", no_wrap=True)
    table.add_column("ended", no_wrap=True)
    some = answer.attempts if len(answer.attempts) <= 20 else [*answer.attempts[:10], *answer.attempts[-10:]]
    for attempt in some:
        cells = [seconds(attempt.buckets[name]) if attempt.buckets[name] else "" for name in names]
        table.add_row(str(attempt.attempt), *cells, Text(attempt.outcome))
    hidden = len(answer.attempts) - len(some)
    return [
        Fitted(table),
        *([Text(f"{counted(hidden, 'attempt')} between left out; --json has all.")] if hidden else []),
    ]


def _remarks(answer: Goodput) -> Iterator[str]:
    if all(bucket.name != "productive" for bucket in answer.buckets):
        yield (
            "No steps were marked, so nothing tells which time was productive. In the training loop: "
            "with elastic_events.step(n): ...  (and checkpoint(n), restore(n))."
        )
        return
    yield from by_attempt((attempt.attempt, attempt.unsure) for attempt in answer.attempts)
    usual = f" of {seconds(answer.step_s)} in the median" if answer.step_s is not None else ""
    uncounted = any(attempt.unsure.startswith(ROUNDS) for attempt in answer.attempts)
    several = "Steps of optimizers" if uncounted else "Steps"
    parts = [f"{several if uncounted or answer.steps is None else counted(answer.steps, 'step')}{usual}"]
    if answer.steps_redone:
        parts.append(f"{answer.steps_redone:,} done again")
    if answer.steps_cut:
        parts.append(f"{answer.steps_cut:,} cut off")
    yield ", ".join(parts) + "."
    if answer.between_failures_s is not None:
        yield f"{counted(answer.failures, 'failure')}, one every {seconds(answer.between_failures_s)}."


def explain(width: int = 80) -> str:
    """Return the formula, what each bucket holds, and where it comes from, in lines of `width` columns, 120 at most."""
    width = min(width, 120)
    indent = " " * 14
    buckets = [fill(f"  {name:<11} {what}", width, subsequent_indent=indent) for name, what in BUCKETS.items()]
    above, *below = (fill(paragraph, width) for paragraph in _EXPLAINED.strip().split("\n\n"))
    return "\n\n".join(["ETTR = productive / wall time", above, "\n".join(buckets), *below])
