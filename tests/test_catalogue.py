"""The page of the events, and the code."""

import ast
import re
from pathlib import Path

from elastic_events.observe.marks import _KINDS

ROOT = Path(__file__).parents[1]
NAME = re.compile(
    r"(agent|attempt|checkpoint|collective|epoch|evaluation|job|membership|observe|recorder|rendezvous|restore|step|thread|worker)\.[a-z]+"
)


def test_each_event_of_the_code_is_on_the_page_and_none_else() -> None:
    """docs/events.md names every event that the code records or reads, and no other."""
    document = (ROOT / "docs/events.md").read_text("utf-8")
    rows = [line.split("|")[1] for line in document.splitlines() if line.startswith("| `")]
    told = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    said = {f"{what}.{edge}" for what in _KINDS for edge in ("started", "ended")}  # an f-string
    for path in (ROOT / "elastic_events").rglob("*.py"):
        if "demo" not in path.parts:
            said |= {
                node.value
                for node in ast.walk(ast.parse(path.read_text("utf-8")))
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and NAME.fullmatch(node.value)
            }
    assert told == said
