"""What the commands that read a run have in common: sources, the choice of a run, JSON, the exit code."""

import functools
import gc
import sys
from collections.abc import Callable
from typing import Any

import click
import msgspec

from elastic_events.bus.errors import InputError
from elastic_events.cli.output import tell
from elastic_events.reading.shown import json_shown
from elastic_events.reading.source import read_stories
from elastic_events.reading.story import Story
from elastic_events.sinks.jsonl_read import CUT
from elastic_events.sinks.stored import NothingYet

__all__ = ("Skipped", "choose", "emit_json", "judge", "options", "reading", "stories_of")

_SHOWN = 5


class Skipped:
    """What could not be read: the first few, and how many more."""

    def __init__(self) -> None:
        self.count = 0
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


def stories_of(sources: tuple[str, ...], skipped: Skipped | None = None) -> list[Story]:
    """Return the stories of `sources`, at least one; what was skipped is told on stderr, or to `skipped`.

    Raises:
        InputError: not one record can be read; `NothingYet` where that may still change.
    """
    told = Skipped() if skipped is None else skipped
    gc.disable()  # all that is read lives until the end: the collector would only walk it again and again
    stories = read_stories(sources, told)
    if not stories:
        raise told.nothing(sources)
    if skipped is None:
        told.tell()
    return stories


def choose(stories: list[Story], run: str | None) -> Story:
    """Return the story of `run`, or the last one, naming the others on stderr."""
    names = [story.run_id for story in stories]
    if run is not None:
        for story in reversed(stories):
            if story.run_id == run:
                return story
        raise NothingYet(f"no run {run!r} here; there are {', '.join(dict.fromkeys(names))}")
    if len(stories) > 1:
        others = ", ".join(dict.fromkeys(names[:-1]))
        tell(f"{len(stories)} runs here: showing the last, {names[-1]}; --run chooses among {others}")
    return stories[-1]


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
        story = choose(stories_of(sources), run)
        command(story=story, sources=sources, **own)
        judge(story.outcome, check)

    return read
