"""What is slow, in a terminal."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from elastic_events.bus.text import counted
from elastic_events.reading.hang import verdict
from elastic_events.reading.narrow import Fitted
from elastic_events.reading.shown import shown
from elastic_events.reading.stragglers import OFTEN, RankSteps, Slow
from elastic_events.reading.stuck import places
from elastic_events.reading.words import by_attempt, seconds

__all__ = ("slow_terminal",)

_SHOWN = 20
_HANGS = 3

#: A straggler in this share of its steps is one throughout.
ALWAYS = 0.9


def slow_terminal(answer: Slow) -> RenderableType:
    """Draw it for a terminal: stragglers first, then the slowest."""
    answer = shown(answer)
    if answer.median_s is None:
        text = "No finished step was recorded. In the training loop: with elastic_events.step(n): ..."
        return Group(Text(text), *_hung(answer), *_silence(answer))
    stragglers = [one for one in answer.ranks if one.straggler]
    ranks = ("process", "processes") if all(one.rank is None for one in answer.ranks) else ("rank",)  # of plain scripts
    head = f"Run {answer.run_id}: {counted(len(answer.ranks), *ranks)}, a step takes {seconds(answer.median_s)} in the median; "
    head += f"{counted(len(stragglers), 'straggler')}." if stragglers else "no straggler."
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    heads = ("rank", "steps", "median", "of all", "p99", "p99/\nmedian", "longest\n(step)", "begins\nlate by")
    for column in heads:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("node", overflow="fold", min_width=8)
    table.add_column("")
    for one in answer.ranks[:_SHOWN]:
        table.add_row(*map(str, _cells(one)), Text(one.node), Text(one.straggler, style="bold red"))
    more = len(answer.ranks) - _SHOWN
    rest = [Text(f"{counted(more, *(f'more {one}' for one in ranks))}; --json has all.")] if more > 0 else []
    unsure = map(Text, by_attempt((int(number), text) for number, text in answer.unsure.items()))
    return Group(Text(head), *_hung(answer), Fitted(table), *rest, *unsure, *_at_times(answer), *_silence(answer))


def _cells(one: RankSteps) -> tuple[Any, ...]:
    spread = f"{one.p99_s / one.median_s:.1f} x" if one.median_s else ""
    longest = seconds(one.longest_s) + (f" ({one.longest_step})" if one.longest_step is not None else "")
    times = (seconds(one.median_s), f"{one.ratio:.2f} x", seconds(one.p99_s), spread, longest)
    return ("?" if one.rank is None else one.rank, one.steps, *times, seconds(one.late_s))


def _hung(answer: Slow) -> Iterator[Text]:
    for hang in answer.hangs[-_HANGS:]:
        yield Text(verdict(hang), style="bold red")
    if len(answer.hangs) > _HANGS:
        yield Text(f"{counted(len(answer.hangs) - _HANGS, 'earlier attempt')} hung as well; --json has all.")
    yield from (Text(place, style="red") for place in islice(places(answer.stuck), _SHOWN))


def _at_times(answer: Slow) -> Iterator[Text]:
    """Say of stragglers that were not always so when they were."""
    some = [one for one in answer.ranks if one.straggler and OFTEN <= one.held_up < ALWAYS]
    for one in some[:_SHOWN]:
        what = "much slower than the quickest" if one.straggler == "slow" else "much later than the first"
        when = f", from step {one.since_step} on" if one.since_step is not None else ""
        yield Text(f"Rank {one.rank} was {what} in {one.held_up:.0%} of its steps{when}.")


def _silence(answer: Slow) -> Iterator[Text]:
    for one in answer.quiet[:_SHOWN]:
        step = f", after step {one.last_step}" if one.last_step is not None else ""
        who = "A process" if one.rank is None else f"Rank {one.rank}"
        yield Text(
            f"{who} on {one.node} went quiet at +{seconds(one.since_s)} in attempt {one.attempt}{step}, "
            f"{seconds(one.before_others_s)} before the others"
            f"{'; it ended with code 0, and may have been done' if one.succeeded else ''}."
        )
    if len(answer.quiet) > _SHOWN:
        yield Text(f"{counted(len(answer.quiet) - _SHOWN, 'more rank')} went quiet.")
