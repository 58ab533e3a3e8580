"""The command `elastic-events`: arguments in, `reading/` out. A user's mistake is one sentence and exit code 2."""

import errno
import io
import os
import sys

__all__ = ("main",)


def main() -> None:
    """Run the command line."""
    try:
        import click  # noqa: F401 - the extra is there
    except ImportError:
        sys.exit("elastic-events needs the extra 'cli': pip install 'elastic-events[cli]'")
    from elastic_events.bus.errors import ElasticEventsError
    from elastic_events.cli.group import elastic_events
    from elastic_events.cli.output import tell

    _prepare_output()
    try:
        try:
            elastic_events(prog_name="elastic-events")
        finally:
            sys.stdout.flush()
    except ElasticEventsError as error:
        tell(f"elastic-events: {error}")
        sys.exit(2)
    except OSError as error:
        if error.filename is not None:  # one that was named; without a name it is the output
            tell(f"elastic-events: {os.fsdecode(error.filename)}: {error.strerror}")
            sys.exit(2)
        if error.errno not in _OUTPUT:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still held back must not fail again at exit
        if error.errno != errno.EPIPE:  # who reads no more knows it
            tell(f"elastic-events: the output cannot be written: {error.strerror}")
        sys.exit(1)


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
