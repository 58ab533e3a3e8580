"""Unmodified scripts that die in ten ways, ten times each, observed: `python -m tests.observe.hundred [TIMES]`.

Prints how often the summary had type or signal, message, file and line right, and how many exit codes were other than those
of the same script unobserved.
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from tests.observe.jobs import launch, line_of
from tests.observe.test_last_words import DEATHS, SCRIPT, failures

KINDS = ("raises", "in_torch", "chain", "group", "loader", "thread", "exits", "at_once", "segfault", "abort")


def main(times: int = 10) -> int:
    """Run them; return how many were wrong."""
    usual = [_ending(failure) for failure in _die(ELASTIC_EVENTS_OBSERVE="off")]
    wrong: Counter[str] = Counter()
    changed = told = 0
    for number in range(times):
        found = _die()
        for kind, failure, before in zip(KINDS, found, usual, strict=True):
            told += 1
            changed += _ending(failure) != before
            wrong[kind] += not _right(kind, failure)
        print(f"{number + 1} of {times}: {told} deaths, {sum(wrong.values())} wrong, {changed} exit codes changed")
        sys.stdout.flush()
    bad = +wrong
    print(*(f"{kind}: wrong {count} times" for kind, count in bad.items()), sep="\n")
    return sum(bad.values()) + changed


def _die(**env: str) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        job = launch(Path(folder), SCRIPT, ",".join(KINDS), restarts=len(KINDS) - 1, **env)
        return failures(job)


def _ending(failure: dict[str, Any]) -> object:
    return failure["signal"] or failure["exit_code"]


def _right(kind: str, failure: dict[str, Any]) -> bool:
    ending, message, comment = DEATHS[kind]
    place = failure["file"], failure["line"]
    said = (failure["message"] or "").startswith(message or "")
    return _ending(failure) == ending and said and place == (str(SCRIPT), line_of(SCRIPT, comment))


if __name__ == "__main__":
    sys.exit(bool(main(*map(int, sys.argv[1:]))))
