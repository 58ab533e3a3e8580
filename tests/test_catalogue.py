"""The events of a job: the page, the schema and the code say the same."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from elastic_events.observe.marks import _KINDS
from elastic_events.reading.buckets import BUCKETS
from elastic_events.torchrun.messages import parse
from elastic_events.torchrun.repair import Repair
from tests.catalogue import FIELDS, SCHEMA, check
from tests.streams import STREAMS, load

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/events.md").read_text("utf-8")
NAME = re.compile(rf"({'|'.join(sorted({name.split('.')[0] for name in FIELDS}))})\.[a-z]+")


def code() -> Iterator[tuple[Path, ast.AST]]:
    """Give each node of the package's code."""
    for path in (ROOT / "elastic_events").rglob("*.py"):
        if "demo" not in path.parts:
            yield from ((path, node) for node in ast.walk(ast.parse(path.read_text("utf-8"))))


def test_each_event_of_the_code_is_in_the_catalogue_and_none_else() -> None:
    """Page and schema name every event that the code records or reads, and no other."""
    events = PAGE.partition("## Metrics")[0]
    rows = [line.split("|")[1] for line in events.splitlines() if line.startswith("| `")]
    told = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    said = {f"{what}.{edge}" for what in _KINDS for edge in ("started", "ended")}  # an f-string
    for _, node in code():
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and NAME.fullmatch(node.value):
            said.add(node.value)
    assert told == said == set(FIELDS)
    assert [one["then"]["properties"]["metadata"]["$ref"] for one in SCHEMA["allOf"]] == [
        f"#/$defs/{one['if']['properties']['name']['const']}" for one in SCHEMA["allOf"]
    ]
    assert {one["if"]["properties"]["name"]["const"] for one in SCHEMA["allOf"]} == set(FIELDS)


def test_each_field_that_the_code_writes_out_is_in_the_schema() -> None:
    """Where an event is made with its name and its fields, these are those of the schema."""
    seen = set()
    for path, node in code():
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Event", "Fact", "_event", "self._fact"):
            names = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and arg.value in FIELDS]
            literal = [arg for arg in node.args if isinstance(arg, ast.Dict)]
            keys = {key.value for one in literal for key in one.keys if isinstance(key, ast.Constant)}
            keys |= {keyword.arg for keyword in node.keywords if keyword.arg is not None}
            for name in names:
                seen.add(name)
                assert keys <= FIELDS[name], f"{path.name}: {name}: {keys - FIELDS[name]}"
    assert len(seen) > 15


@pytest.mark.parametrize("name", STREAMS)
def test_what_torchs_streams_become_is_in_the_catalogue(name: str) -> None:
    """The facts of each captured job have the fields and types of the schema; its metrics are known, too."""
    repair, known = Repair(parse), [re.compile(one["pattern"]) for one in SCHEMA["x-metrics"]]
    for record in load(name):
        if record.kind == "metric":
            assert any(pattern.match(record.name) for pattern in known), record.name
            continue
        if record.kind == "event":
            facts = repair.event(record.name, record.fields[0], record.fields[-1])
        else:
            facts = repair.rendezvous(record.fields[1])
        for fact in facts:
            check(fact.name, fact.metadata)


def test_what_others_call_the_same_is_on_the_page() -> None:
    """The mapping of the schema, by whose library and which version, is what the page shows."""
    section = PAGE.partition("## The same elsewhere")[2]
    shown = set(re.findall(r"`([^`]+)`", section))
    mapped = {field: about["x-same-as"] for field, about in SCHEMA["$defs"].items() if "x-same-as" in about}
    assert mapped["field.rank"] == {"nemo-lens 0.1": "dl.rank", "nemo-lens later": "nv.dl.rank"}
    for field, theirs in mapped.items():
        assert {field.removeprefix("field."), *theirs.values()} <= shown, field
    buckets = SCHEMA["x-goodput"]["ml-goodput"]
    assert set(buckets) == set(BUCKETS) - {"productive"}
    for theirs in buckets.values():
        assert set(theirs.split(" and ")) <= shown
