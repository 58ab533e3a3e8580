"""`elastic-events summary`: a run on one screen."""

import math
import time
from collections.abc import Iterator

import click
import msgspec
from rich.console import Console
from rich.live import Live

from elastic_events.cli.output import tell
from elastic_events.cli.reading import Skipped, choose, emit_json, judge, options, stories_of
from elastic_events.reading.answers import quickly, retell
from elastic_events.reading.overview import Summary
from elastic_events.reading.shown import json_shown
from elastic_events.reading.summary_terminal import summary_terminal
from elastic_events.sinks.stored import NothingYet

__all__ = ("command",)

#: Seconds between two looks at a job that is watched.
INTERVAL = 2.0

#: Seconds after the end of a job in which its last ledger is waited for, and between two looks then.
GRACE, SOON = 10.0, 0.25


@click.command("summary")
@options
@click.option("--watch", is_flag=True, help="Read again every two seconds until the job ends, or Ctrl-C.")
def command(sources: tuple[str, ...], run: str | None, as_json: bool, check: bool, watch: bool) -> None:
    """Show attempts, the first failures and their last words, how far each rank came, and the ledgers.

    A source is a SQLite or JSON Lines file, a directory of flight recorders or a NATS stream; several are read as one
    run, one a node. --watch waits for a source that is not there yet; with --json it prints a line each time that the
    answer is another one. --check judges what was seen last.
    """
    if not watch:
        with quickly():
            answer = retell(choose(stories_of(sources), run), sources)
        if as_json:
            emit_json(answer)
        else:
            Console().print(summary_terminal(answer))
        judge(answer.outcome, check)
        return
    outcome = "unknown"
    try:
        for answer in _lines(sources, run) if as_json else _screens(sources, run):
            outcome = answer.outcome
    except KeyboardInterrupt:
        pass  # how watching ends
    judge(outcome, check)


def _screens(sources: tuple[str, ...], run: str | None) -> Iterator[Summary]:
    answers = _watch(sources, run)
    first = next(answers)  # what is said before it would stand in the picture
    with Live(summary_terminal(first), console=Console(), auto_refresh=False) as live:
        yield first
        for answer in answers:
            live.update(summary_terminal(answer), refresh=True)
            yield answer


def _lines(sources: tuple[str, ...], run: str | None) -> Iterator[Summary]:
    said = b""
    for answer in _watch(sources, run):
        line = msgspec.json.encode(answer)
        if line != said:
            click.echo(json_shown(line.decode()))
        said = line
        yield answer


def _watch(sources: tuple[str, ...], run: str | None) -> Iterator[Summary]:
    """Give the answer of each look until the job has ended and its ledger is there; wait for sources that are not there yet."""
    waits, until = False, math.inf
    while time.monotonic() < until:
        skipped = Skipped()
        try:
            story = choose(stories_of(sources, skipped), run)
        except NothingYet as error:
            if not waits:
                tell(f"waiting: {error}")
            waits = True
        else:
            run = story.run_id
            yield retell(story, sources)
            if story.outcome != "unknown":
                # A collector closes its sinks, and says what became of all records, a moment after the job has ended.
                until = min(until, time.monotonic() + GRACE) if story.unclosed else 0.0
        if until > 0:
            time.sleep(INTERVAL if until == math.inf else SOON)
    skipped.tell()
