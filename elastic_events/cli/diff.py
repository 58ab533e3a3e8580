"""`elastic-events diff`: two runs side by side."""

import click
from rich.console import Console

from elastic_events.cli.reading import choose, emit_json, stories_of
from elastic_events.reading.compare import diff
from elastic_events.reading.diff_terminal import diff_terminal

__all__ = ("command",)


@click.command("diff")
@click.argument("a")
@click.argument("b")
@click.option("--run-a", metavar="ID", help="The run of A, where it holds several; the last by default.")
@click.option("--run-b", metavar="ID", help="The run of B, likewise.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as one JSON document.")
def command(a: str, b: str, run_a: str | None, run_b: str | None, as_json: bool) -> None:
    """Compare two runs, phase by phase, and mark the phase that grew most.

    A and B are sources as of the other commands; the files of several nodes are separated by commas.
    """
    answer = diff(
        choose(stories_of(tuple(a.split(","))), run_a),
        choose(stories_of(tuple(b.split(","))), run_b),
    )
    if as_json:
        emit_json(answer)
    else:
        Console().print(diff_terminal(answer))
