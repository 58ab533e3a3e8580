"""Real jobs of many kinds, each told truly by every command. A fifth of them runs by turns; ELASTIC_EVENTS_ZOO=all runs all."""

import os
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import pytest

from elastic_events import reading
from elastic_events.bus.errors import InputError
from tests.torchrun.jobs import TIMEOUT, needs_torch
from tests.zoo.play import Play

pytest.register_assert_rewrite("tests.zoo.check")

pytestmark = [needs_torch, pytest.mark.timeout(2 * TIMEOUT)]


def kinds() -> Iterator[str]:
    """Give the name of each kind, as its file is called, with a variant where it has several."""
    for path in sorted((Path(__file__).parent / "kinds").glob("[a-z]*.py")):
        variants = getattr(import_module(f"tests.zoo.kinds.{path.stem}"), "VARIANTS", ())
        yield from [f"{path.stem}-{variant}" for variant in variants] or [path.stem]


KINDS = list(kinds())

TURNS = 5

#: The turn that it is today.
TURN = datetime.now(tz=UTC).toordinal() % TURNS


def turn(kind: str) -> int:
    """Return in which turn a kind runs; the same for ever, whatever other kinds there are."""
    return zlib.crc32(kind.encode()) % TURNS


def answers(sources: list[str]) -> dict[str, Any]:
    """Return the JSON of every command."""
    asked = {"summary": reading.summary, "timeline": reading.timeline, "goodput": reading.goodput, "slow": reading.slow}
    return {name: msgspec.json.decode(msgspec.json.encode(ask(*sources))) for name, ask in asked.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_is_true(kind: str, tmp_path: Path) -> None:
    """What the commands say of a real job of this kind is what its processes wrote down of it, or unknown."""
    if os.environ.get("ELASTIC_EVENTS_ZOO") != "all" and turn(kind) != TURN:
        pytest.skip(f"its turn is in {(turn(kind) - TURN) % TURNS} days; ELASTIC_EVENTS_ZOO=all runs all kinds")
    with Play(tmp_path, kind) as play:
        said = import_module(f"tests.zoo.kinds.{play.kind}").play(play)
        play.settle()
        try:
            told = answers(play.sources)
        except InputError:
            assert "read" in said.may
            return
        try:
            import_module("tests.zoo.check").check(play, said, told)
        except AssertionError as error:
            error.add_note(play.output()[-1500:])
            raise
