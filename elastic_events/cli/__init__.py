"""The command `elastic-events`: arguments in, `reading/` out. A user's mistake is one sentence and exit code 2."""

import sys
from importlib import import_module

__all__ = ("main",)

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


def main() -> None:
    """Run the command line."""
    try:
        import click
    except ImportError:
        sys.exit("elastic-events needs the extra 'cli': pip install 'elastic-events[cli]'")
    from elastic_events.bus.errors import ElasticEventsError
    from elastic_events.cli.output import tell
    from elastic_events.reading.shown import sentence
    from elastic_events.sinks.options import without_login

    class Group(click.Group):
        def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
            return list(COMMANDS)

        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - likewise
            if cmd_name not in COMMANDS:
                return None
            command: click.Command = import_module(f"elastic_events.cli.{cmd_name}").command
            return command

        def invoke(self, ctx: click.Context) -> object:
            try:
                return super().invoke(ctx)
            except click.ClickException as error:  # it repeats what was typed
                error.message = sentence(without_login(error.message))  # type: ignore[misc] # final, but all there is
                raise

    group = Group(name="elastic-events", help="Record, keep and read the events and metrics of elastic training jobs.")
    try:
        group(prog_name="elastic-events")
    except ElasticEventsError as error:
        tell(f"elastic-events: {error}")
        sys.exit(2)
