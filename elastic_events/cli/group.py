"""The commands of `elastic-events`, each imported when it is asked for."""

import signal
import sys
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

import click

from elastic_events.reading.shown import sentence
from elastic_events.sinks.options import without_login

__all__ = ("COMMANDS", "elastic_events")

#: Command -> what `--help` says; each lives in the module of its name, imported when it is asked for.
COMMANDS = {
    "collect": "Deliver what processes record in a directory, as they do.",
    "demo": "Run a small elastic job that loses a worker.",
    "diff": "Compare two runs, phase by phase.",
    "export": "Write a trace for Perfetto, or tables.",
    "goodput": "Show where the hours went.",
    "recover": "Deliver what killed processes left in their flight recorders.",
    "replay": "Send dead letters to a sink again.",
    "run": "Run a torchrun command with the plug-in on.",
    "slow": "Show stragglers, and ranks that went quiet.",
    "summary": "Show a run on one screen.",
    "tail": "Print records, and follow them.",
    "timeline": "Draw what each node and rank did, and when.",
}


class Commands(click.Group):
    """All commands. What was typed wrong gets the command that it may have meant."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return their names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - likewise
        """Return the command of a name, or None."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"elastic_events.cli.{cmd_name}").command
        command.short_help = COMMANDS[cmd_name]
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was typed."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            near = get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(f"there is no command {args[0]!r}" + (f"; did you mean {near[0]}?" if near else ""))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run it; Ctrl-C ends it as a signal would."""
        try:
            return super().invoke(ctx)
        except click.ClickException as error:  # it repeats what was typed
            error.message = sentence(without_login(error.message))  # type: ignore[misc] # final, but all there is
            raise
        except KeyboardInterrupt:
            raise SystemExit(128 + signal.SIGINT) from None


def _show_versions(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    """Say what a report of a fault begins with."""
    if wanted:
        try:
            torch = f"torch {version('torch')}"
        except PackageNotFoundError:
            torch = "no torch"
        click.echo(f"elastic-events {version('elastic-events')}, Python {sys.version.split()[0]}, {torch}")
        ctx.exit()


@click.group(
    cls=Commands,
    name="elastic-events",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_versions,
    help="Show the versions of this package, Python and torch, and exit.",
)
def elastic_events() -> None:
    """Record, keep and read the events and metrics of elastic training jobs."""
