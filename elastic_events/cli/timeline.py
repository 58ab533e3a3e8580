"""`elastic-events timeline`: what each node and rank did, and when."""

from pathlib import Path

import click
from rich.console import Console

from elastic_events.cli.output import write_page
from elastic_events.cli.reading import emit_json, reading
from elastic_events.reading.rows import timeline
from elastic_events.reading.story import Story

__all__ = ("command",)

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("timeline")
@reading
@click.option("--svg", type=_FILE, metavar="FILE", help="Write a picture.")
@click.option("--html", type=_FILE, metavar="FILE", help="Write a page to zoom in, which works offline.")
def command(story: Story, sources: tuple[str, ...], as_json: bool, svg: Path | None, html: Path | None) -> None:  # noqa: ARG001
    """Draw rendezvous, start-up, training, checkpoints and failures of each node and rank over time."""
    answer = timeline(story)
    if svg is not None:
        from elastic_events.reading.timeline_svg import timeline_svg

        write_page(svg, timeline_svg(answer))
    if html is not None:
        from elastic_events.reading.timeline_html import timeline_html

        write_page(html, timeline_html(answer))
    if as_json:
        emit_json(answer)
    elif svg is None and html is None:
        from elastic_events.reading.timeline_terminal import timeline_terminal

        console = Console()
        console.print(timeline_terminal(answer, console.width, ascii_only=console.options.ascii_only))
