"""The command `elastic-events`: arguments in, `reading/` out. A user's mistake is one sentence and exit code 2."""

import errno
import io
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click

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
        import click  # noqa: F401 - the extra is there
    except ImportError:
        sys.exit("elastic-events needs the extra 'cli': pip install 'elastic-events[cli]'")
    from elastic_events.bus.errors import ElasticEventsError
    from elastic_events.cli.output import tell

    _prepare_output()
    group = _group()
    try:
        try:
            group(prog_name="elastic-events")
        finally:
            sys.stdout.flush()
    except ElasticEventsError as error:
        tell(f"elastic-events: {error}")
        sys.exit(2)
    except OSError as error:
        if error.errno not in _OUTPUT:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still held back must not fail again at exit
        if error.errno != errno.EPIPE:  # who reads no more knows it
            tell(f"elastic-events: the output cannot be written: {error.strerror}")
        sys.exit(1)


def _group() -> "click.Group":
    """Return the command whose subcommands are imported when they are asked for."""
    import click

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

    return Group(name="elastic-events", help="Record, keep and read the events and metrics of elastic training jobs.")


#: What a write to a pipe, a terminal or a file that takes no more raises.
_OUTPUT = frozenset({errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT})


def _prepare_output() -> None:
    """Let a terminal that cannot show a character get its escape, and a closed stdout take what is printed."""
    if sys.stdout is None:
        # At the descriptor that is free, so that no file gets it which then is printed into.
        sys.stdout = open(os.open(os.devnull, os.O_WRONLY), "w", closefd=False)  # noqa: SIM115 - until the process ends
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
