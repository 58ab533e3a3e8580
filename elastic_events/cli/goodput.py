"""`elastic-events goodput`: where the hours went."""

import click
from rich.console import Console

from elastic_events.cli.reading import emit_json, reading
from elastic_events.reading.goodput import explain, goodput, goodput_terminal
from elastic_events.reading.story import Story

__all__ = ("command",)


def _explain(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(explain())
        context.exit()


@click.command("goodput")
@reading
@click.option(
    "--explain", is_flag=True, is_eager=True, expose_value=False, callback=_explain, help="Say what is counted how."
)
def command(story: Story, sources: tuple[str, ...], as_json: bool) -> None:  # noqa: ARG001 - what `reading` hands out
    """Show how much of the wall time moved the training on (ETTR), and where the rest went."""
    answer = goodput(story)
    if as_json:
        emit_json(answer)
        return
    console = Console()
    console.print(goodput_terminal(answer, console.width))
