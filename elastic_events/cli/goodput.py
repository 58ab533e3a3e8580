"""`elastic-events goodput`: where the hours went."""

from pathlib import Path

import click
from rich.console import Console

from elastic_events.cli.output import write_page
from elastic_events.cli.reading import emit_json, reading
from elastic_events.reading.buckets import goodput
from elastic_events.reading.goodput_terminal import explain, goodput_terminal
from elastic_events.reading.story import Story

__all__ = ("command",)


def _explain(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(explain(Console().width))
        context.exit()


@click.command("goodput")
@reading
@click.option(
    "--explain", is_flag=True, is_eager=True, expose_value=False, callback=_explain, help="Say what is counted how."
)
@click.option(
    "--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write a page, which works offline."
)
def command(story: Story, sources: tuple[str, ...], as_json: bool, html: Path | None) -> None:  # noqa: ARG001
    """Show how much of the wall time moved the training on (ETTR), and where the rest went."""
    answer = goodput(story)
    if html is not None:
        from elastic_events.reading.goodput_html import goodput_html

        write_page(html, goodput_html(answer))
    if as_json:
        emit_json(answer)
    elif html is None:
        console = Console()
        console.print(goodput_terminal(answer, console.width))
