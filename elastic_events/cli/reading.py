"""What the commands that read a run have in common: sources, the choice of a run, JSON, the exit code."""

import functools
import math
import sys
import time
from collections.abc import Callable
from typing import Any, Self

import click
import msgspec

from elastic_events.bus.errors import InputError
from elastic_events.cli.output import tell
from elastic_events.reading.answers import pick, quickly
from elastic_events.reading.shown import json_shown, sentence
from elastic_events.reading.source import read_stories
from elastic_events.reading.story import Story
from elastic_events.sinks.jsonl_read import CUT
from elastic_events.sinks.stored import NothingYet

__all__ = ("Skipped", "choose", "emit_json", "judge", "options", "reading", "stories_of")

_SHOWN = 5


class Skipped:
    """What could not be read: the first few, and how many more."""

    def __init__(self) -> None:
        self.count: int = 0
        self.first: list[str] = []

    def __call__(self, where: str, reason: str) -> None:
        self.count += 1
        if self.count <= _SHOWN:
            self.first.append(f"{where}: {reason}")

    def nothing(self, sources: tuple[str, ...]) -> InputError:
        """Return what to raise when not one record could be read."""
        why = self.first[0] if self.first else "nothing is in there"
        kind = NothingYet if all(line.endswith(CUT) for line in self.first) else InputError
        return kind(f"no record can be read from {', '.join(sources)} ({why})")

    def tell(self) -> None:
        """Say on stderr what was passed over."""
        for line in self.first:
            tell(f"skipped {line}")
        if self.count > _SHOWN:
            tell(f"and {self.count - _SHOWN} more")


class _Progress:
    """A line on a terminal that says how far a long reading has come, until it has."""

    def __init__(self) -> None:
        self._next = time.monotonic() + 1 if sys.stderr is not None and sys.stderr.isatty() else math.inf
        self._shown = False

    def show(self, source: str, share: float) -> None:
        """Say it, some times a second."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + 0.2
            self._shown = True
            click.echo(f"\r\x1b[Kreading {sentence(source)}: {share:.0%}", nl=False, err=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            click.echo("\r\x1b[K", nl=False, err=True)


def stories_of(sources: tuple[str, ...], skipped: Skipped | None = None) -> list[Story]:
    """Return the stories of `sources`, at least one; what was skipped is told on stderr, or to `skipped`.

    Raises:
        InputError: not one record can be read; `NothingYet` where that may still change.
    """
    told = Skipped() if skipped is None else skipped
    with quickly(), _Progress() as progress:
        stories = read_stories(sources, told, progress.show if skipped is None else None)
    if not stories:
        raise told.nothing(sources)
    if skipped is None:
        told.tell()
    return stories


def choose(stories: list[Story], run: str | None) -> Story:
    """Return the story of `run`, or the last one, naming the others on stderr."""
    if len(stories) > 1 and run is None:
        shown = pick(stories, None)
        last, others = shown.run_id, [story.run_id for story in stories if story is not shown]
        among = ", ".join(dict.fromkeys(others))
        choice = f"--run chooses among {among}" if among != last else "give each an ELASTIC_EVENTS_RUN_ID to choose by"
        which = "the last" if shown is stories[-1] else "the one that started the last"
        tell(f"{len(stories)} runs here: showing {which}, {last}; {choice}")
    return pick(stories, run)


def emit_json(answer: Any) -> None:
    """Print an answer as one JSON document."""
    click.echo(json_shown(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode()))


def judge(outcome: str, check: bool) -> None:
    """End with the exit code that `--check` promises, if it was asked for."""
    if check and outcome != "succeeded":
        sys.exit(1 if outcome == "failed" else 3)


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command SOURCE..., --run, --json and --check, as `sources`, `run`, `as_json` and `check`."""
    for add in (
        click.option("--check", is_flag=True, help="Exit with 1 when the job failed, 3 when that is unknown."),
        click.option("--json", "as_json", is_flag=True, help="Print the answer as one JSON document."),
        click.option("--run", metavar="ID", help="The run to read, where there are several; the last by default."),
        click.argument("sources", nargs=-1, required=True, metavar="SOURCE..."),
    ):
        command = add(command)
    return command


def reading(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the `options`; it is called with `story`, `sources`, `as_json`, and its own."""

    @options
    @functools.wraps(command)
    def read(sources: tuple[str, ...], run: str | None, check: bool, **own: Any) -> None:
        with quickly():
            story = choose(stories_of(sources), run)
            command(story=story, sources=sources, **own)
        judge(story.outcome, check)

    return read
