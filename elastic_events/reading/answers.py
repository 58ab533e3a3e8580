"""What the commands tell, as Python objects: a source in, an answer out. No terminal library is imported.

An answer is an immutable struct whose fields are documented where they are declared, and in docs/reading.md. `as_json` gives what
a command prints with `--json`, and `json_schema` what that holds to.
"""

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from elastic_events.bus.errors import InputError
from elastic_events.reading.buckets import Goodput
from elastic_events.reading.buckets import goodput as goodput_of
from elastic_events.reading.compare import Diff
from elastic_events.reading.compare import diff as diff_of
from elastic_events.reading.overview import Summary, final_worker
from elastic_events.reading.overview import summary as summary_of
from elastic_events.reading.rows import Timeline
from elastic_events.reading.rows import timeline as timeline_of
from elastic_events.reading.source import last_words, read_stories
from elastic_events.reading.story import Story
from elastic_events.reading.stragglers import Slow
from elastic_events.reading.stragglers import slow as slow_of
from elastic_events.sinks.stored import NothingYet

__all__ = ("as_json", "diff", "goodput", "json_schema", "pick", "quickly", "retell", "slow", "summary", "timeline")

#: Seconds that a thread waits for the GIL, at most.
_INTERVAL = 0.0005

#: A path of a SQLite or JSON Lines file or of a directory of flight recorders, or the URL of a NATS stream.
Source = str | Path


def summary(*sources: Source, run: str | None = None) -> Summary:
    """Return a run in short: its attempts, who failed first and of what, how far each rank came, the ledgers.

    Several `sources`, such as one a node, are read as one; what comes twice counts once. Of several runs it is the last, or the
    one with the id `run`. What the records do not tell is None or "unknown". Any thread may call it.

    Raises:
        InputError: a source is missing or foreign, holds no record that can be read, or not that run.
    """
    with quickly():
        return retell(_story(sources, run), sources)


def timeline(*sources: Source, run: str | None = None) -> Timeline:
    """Return what each node and rank did, and when; for the rest see `summary`."""
    with quickly():
        return timeline_of(_story(sources, run))


def goodput(*sources: Source, run: str | None = None) -> Goodput:
    """Return where the hours of a run went, in buckets that sum up to its wall time; for the rest see `summary`."""
    with quickly():
        return goodput_of(_story(sources, run))


def slow(*sources: Source, run: str | None = None) -> Slow:
    """Return stragglers, ranks that went quiet, and where a run hangs; for the rest see `summary`."""
    with quickly():
        return slow_of(_story(sources, run))


def diff(a: Source | Sequence[Source], b: Source | Sequence[Source]) -> Diff:
    """Return two runs side by side, each of a source or several; for the rest see `summary`."""
    with quickly():
        return diff_of(*(_story([one] if isinstance(one, str | Path) else one, None) for one in (a, b)))


def as_json(answer: Summary | Timeline | Goodput | Slow | Diff) -> bytes:
    """Return an answer as strict JSON, in one line."""
    return msgspec.json.encode(answer)


def json_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema, 2020-12, of an answer: of `summary`, `timeline`, `goodput`, `slow` or `diff`;
    of `events`, those that a job records.

    Within a version fields are only ever added. A field that goes, or means something else, makes a new version.
    """
    text = files("elastic_events.reading").joinpath("schema", f"{name}.json").read_text("utf-8")
    found: dict[str, Any] = msgspec.json.decode(text)
    return found


def retell(story: Story, sources: Sequence[Source]) -> Summary:
    """Return the summary of a story, with the last words that `sources` hold of who failed first."""
    dead = final_worker(story)
    processes = [dead.process] if dead is not None and dead.process is not None else []
    return summary_of(story, last_words(sources, processes))


def pick(stories: Sequence[Story], run: str | None) -> Story:
    """Return the last story that is of no job which a rank of another one started, or the last of the run with that id.

    Raises:
        NothingYet: there is none of that run, yet.
    """
    outer = tuple(f"{story.run_id}/" for story in stories)
    for story in reversed(stories):
        if run == story.run_id or (run is None and not story.run_id.startswith(outer)):
            return story
    raise NothingYet(f"no run {run!r} here; there are {', '.join(dict.fromkeys(story.run_id for story in stories))}")


@contextmanager
def quickly() -> Iterator[None]:
    """Read as fast as can be, in all of the process meanwhile.

    The garbage collector does not walk what is read again and again: all of it lives until the answer. And the thread that reads
    ahead waits shortly for the GIL.
    """
    enabled, interval = gc.isenabled(), sys.getswitchinterval()
    gc.disable()
    sys.setswitchinterval(min(interval, _INTERVAL))
    try:
        yield
    finally:
        if enabled:
            gc.enable()
        if interval > _INTERVAL:  # else it is that of another one, who reads in another thread
            sys.setswitchinterval(interval)


def _story(sources: Sequence[Source], run: str | None) -> Story:
    skipped: list[str] = []
    stories = read_stories(sources, lambda where, reason: skipped.append(f"{where}: {reason}"))
    if not stories:
        names = ", ".join(map(str, sources))
        raise InputError(f"no record can be read from {names} ({skipped[0] if skipped else 'nothing is in there'})")
    return pick(stories, run)
