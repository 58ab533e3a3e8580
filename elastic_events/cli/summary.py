"""`elastic-events summary`: a run on one screen."""

import time

import click
from rich.console import Console
from rich.live import Live

from elastic_events.cli.reading import choose, emit_json, reading, stories_of
from elastic_events.reading.source import last_words
from elastic_events.reading.story import Story
from elastic_events.reading.summary import Summary, final_worker, summary, summary_terminal

__all__ = ("command",)


@click.command("summary")
@reading
@click.option("--watch", is_flag=True, help="Read again every two seconds until the job ends, or Ctrl-C.")
def command(story: Story, sources: tuple[str, ...], as_json: bool, watch: bool) -> None:
    """Show attempts, the first failures and their last words, how far each rank came, and the ledgers.

    A source is a SQLite or JSON Lines file, a directory of flight recorders or a NATS stream; several are read as one
    run, one a node.
    """
    answer = _answer(story, sources)
    if as_json:
        emit_json(answer)
        return
    console = Console()
    if not watch:
        console.print(summary_terminal(answer))
        return
    with Live(summary_terminal(answer), console=console, auto_refresh=False) as live:
        while answer.outcome == "unknown":
            time.sleep(2)
            answer = _answer(choose(stories_of(sources), story.run_id), sources)
            live.update(summary_terminal(answer), refresh=True)


def _answer(story: Story, sources: tuple[str, ...]) -> Summary:
    dead = final_worker(story)
    processes = [dead.process] if dead is not None and dead.process is not None else []
    return summary(story, last_words(sources, processes))
