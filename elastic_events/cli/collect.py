"""`elastic-events collect`: the collector of a directory in the foreground."""

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from operator import sub
from pathlib import Path

import anyio
import click

from elastic_events.bus.errors import ConfigError, ElasticEventsError, InputError
from elastic_events.bus.text import counted
from elastic_events.cli.output import tell
from elastic_events.cli.recover import no_directory
from elastic_events.recorder.daemon import Daemon
from elastic_events.recorder.directory import SPOOL, rings, secure, take
from elastic_events.recorder.reader import RecorderReader
from elastic_events.recorder.request import VARIABLES, Request, read_requests, submit
from elastic_events.sinks.urls import absolute, open_url

__all__ = ("command",)


@click.command("collect")
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("urls", nargs=-1, metavar="[URL]...")
@click.option("--once", is_flag=True, help="End when no process writes any more and all is delivered.")
@click.option("--run", "run_id", default="", metavar="ID", help="Only the records of this run.")
def command(directory: Path, urls: tuple[str, ...], once: bool, run_id: str) -> None:
    """Deliver what processes record in DIRECTORY to the sinks URL..., until Ctrl-C.

    Those processes have ELASTIC_EVENTS_DIR=DIRECTORY in their environment. Without a URL, the sinks that programs asked for
    there are served: what a collector left when it was killed with its machine, say, goes on to where it was to go.
    """
    if once and not directory.exists():  # a name that is wrong, rather than one that is early
        raise no_directory(directory)
    secure(directory)
    environ = {name: value for name, value in os.environ.items() if name.startswith(VARIABLES)}
    requests = []
    for url in urls:
        open_url(url)  # connects to nothing; what is wrong with it is said before anything is waited for
        requests.append(Request(absolute(url), run_id, everyone=True, environ=environ))
        submit(directory, requests[-1])
    lock = take(directory)
    if lock is None:
        raise ConfigError(f"{directory} is collected already: stop that collector, or let it take these sinks, too")
    if not once:
        tell(
            f"collecting {directory}, for {', '.join(urls) or 'the sinks that programs ask for there'}; Ctrl-C ends it"
        )
    if theirs := _of_others(directory, requests):
        tell(
            f"{counted(theirs, 'record')} of before wait in the spool for another sink, which was away: "
            f"elastic-events recover {directory} --to URL sends them to this one, too"
        )
    left = anyio.run(_collect, directory, lock, once)
    if left:
        raise ElasticEventsError(f"{counted(left, 'record')} not delivered, and kept in {directory}: collect it again")
    if once and not urls and any(rings(directory)):
        raise ConfigError(
            f"no sink was asked for in {directory}, so its recorders stay: name one, such as sqlite:///run.db"
        )


def _of_others(directory: Path, requests: Sequence[Request]) -> int:
    """Return how many records are in the spools of other sinks only: a sink that is new here gets what comes behind them.

    One that a program asked for is not new to what that recorded, though the command asks for it by a request of its own.
    """
    mine = {request.key for request in requests if not (directory / SPOOL / f"{request.key:016x}").exists()}
    asked = {key: one for key, one in read_requests(directory, {})[0].items() if key not in mine}
    count = 0
    for path in rings(directory):
        with suppress(InputError):
            reader = RecorderReader(path)
            keys, runs = reader.requests, ("", reader.header.context.run_id)
            known = {one.url for key, one in asked.items() if key in keys or (one.everyone and one.run_id in runs)}
            if not known.issuperset(one.url for one in requests if one.run_id in runs):
                count += sum(map(sub, reader.told("safe"), reader.told("settled")))
    return count


async def _collect(directory: Path, lock: int, once: bool) -> int:
    daemon = Daemon(directory, lock, stay=not once)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, daemon.stop)
    await daemon.run()
    return daemon.undelivered
