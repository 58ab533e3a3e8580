"""`elastic-events slow`: who holds up the others."""

import click
from rich.console import Console

from elastic_events.cli.reading import emit_json, reading
from elastic_events.reading.slow_terminal import slow_terminal
from elastic_events.reading.story import Story
from elastic_events.reading.stragglers import slow

__all__ = ("command",)


@click.command("slow")
@reading
def command(story: Story, sources: tuple[str, ...], as_json: bool) -> None:  # noqa: ARG001 - what `reading` hands out
    """Show step times by rank, stragglers, and the ranks that went quiet before the others."""
    answer = slow(story)
    if as_json:
        emit_json(answer)
    else:
        Console().print(slow_terminal(answer))
