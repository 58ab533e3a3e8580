"""`elastic-events run -- torchrun train.py`: record a torchrun job without touching its command line."""

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import click

from elastic_events.bus.errors import ConfigError

__all__ = ("command",)


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--to", "sinks", multiple=True, metavar="URL", help="A sink; may be given several times.")
@click.option("--dir", "directory", metavar="DIR", help="Directory of the flight recorders.")
@click.option("--run-id", metavar="ID", help="Name of the run; by default torchrun's --rdzv-id.")
@click.option("--all-ticks", is_flag=True, help="Keep every metric of the agent's monitor.")
@click.argument("program", nargs=-1, type=click.UNPROCESSED, required=True)
def command(
    sinks: tuple[str, ...], directory: str | None, run_id: str | None, all_ticks: bool, program: tuple[str, ...]
) -> None:
    """Run PROGRAM, a torchrun command or a launcher built on torch's elastic agent, and record what its agent does.

    Without --to, and without ELASTIC_EVENTS_SINKS, a database elastic-events-RUN.db is written to the working directory.
    """
    environ = dict(os.environ, ELASTIC_EVENTS_TORCHRUN="1")
    chosen = {
        "ELASTIC_EVENTS_SINKS": ",".join(sinks),
        "ELASTIC_EVENTS_DIR": directory,
        "ELASTIC_EVENTS_RUN_ID": run_id,
        "ELASTIC_EVENTS_TICKS": "all" if all_ticks else None,
    }
    environ.update({name: value for name, value in chosen.items() if value})
    if environ.get("ELASTIC_EVENTS_SINKS"):
        from elastic_events.sinks.urls import open_url, parse_sinks

        for url in parse_sinks(environ["ELASTIC_EVENTS_SINKS"]):
            open_url(url)  # connects to nothing; a wrong URL is said now, not by every agent
    words = list(program) if torch_looks_for_plugins() else with_plugin(program)
    try:
        os.execvpe(words[0], words, environ)  # noqa: S606 - the user's own command, without a shell
    except OSError as error:
        raise ConfigError(f"cannot run {words[0]}: {error.strerror}") from None


def torch_looks_for_plugins() -> bool:
    """Return whether the torch beside us, if there is one, loads the entry points of `torchrun.handlers`."""
    found = find_spec("torch")
    if found is None or found.origin is None:
        return True
    registry = Path(found.origin).parent / "distributed" / "elastic" / "rendezvous" / "registry.py"
    return "torchrun.handlers" in registry.read_text("utf-8") if registry.exists() else True


def with_plugin(program: Sequence[str]) -> list[str]:
    """Return `program` with our torchrun for torch's, which brings the plug-in along."""
    if Path(program[0]).name == "torchrun":
        return [sys.executable, "-m", "elastic_events.torchrun", *program[1:]]
    return ["elastic_events.torchrun" if word == "torch.distributed.run" else word for word in program]
