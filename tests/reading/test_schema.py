"""The JSON of each answer is as its shipped schema says. `python -m tests.reading.test_schema` writes the schemas."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from elastic_events import reading
from elastic_events.reading import Diff, Goodput, Slow, Summary, Timeline, json_schema
from tests.reading.runs import two_attempts
from tests.reading.test_source import database

ANSWERS = {"summary": Summary, "timeline": Timeline, "goodput": Goodput, "slow": Slow, "diff": Diff}


def schema(name: str) -> dict[str, Any]:
    """The schema of an answer as it is declared."""
    answer: Any = ANSWERS[name]
    version = next(field.default for field in msgspec.structs.fields(answer) if field.name == "version")
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:elastic-events:{name}:{version}"}
    return {**head, **msgspec.json.schema(answer)}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_json_is_stable(name: str) -> None:
    """What ships as the schema of an answer is what the answer is; who changes a field sees it here, and the version."""
    assert json_schema(name) == schema(name)


def test_the_answers_are_objects(tmp_path: Path) -> None:
    """A source in, an answer out: typed, with the runs told apart, and the same JSON as the commands print."""
    path = database(tmp_path / "run.db", two_attempts().records)
    answer = reading.summary(path)
    assert (answer.outcome, answer.restarts, answer.version) == ("succeeded", 1, 1)
    assert reading.timeline(str(path), run="run").bands[0].outcome == "failed"
    assert reading.goodput(path).steps == 6
    assert reading.slow(path).hangs == []
    assert reading.diff(path, [path]).grew_most == ""
    assert msgspec.json.decode(reading.as_json(answer), type=Summary) == answer
    with pytest.raises(OSError, match="no run 'other' here; there are run"):
        reading.summary(path, run="other")
    with pytest.raises(OSError, match="no such file"):
        reading.goodput(tmp_path / "none.db")


def test_no_terminal_library_is_needed() -> None:
    """The answers import neither rich nor click."""
    code = "import sys, elastic_events.reading; print(sorted({'rich', 'click'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


if __name__ == "__main__":
    for each in ANSWERS:
        place = Path(reading.__file__).parent / "schema" / f"{each}.json"
        place.write_bytes(msgspec.json.format(msgspec.json.encode(schema(each)), indent=1) + b"\n")
