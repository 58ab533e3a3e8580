"""The catalogue of failures: each number that a comment or a test names has its row, and each row tests that exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROWS = dict(re.findall(r"^\| ([FM]\d+) \| .* \| (.*) \|$", (ROOT / "docs/failures.md").read_text(), re.MULTILINE))


def sentences_of(path: str) -> dict[str, str]:
    """Return the tests of a file, each with its docstring."""
    tree = ast.parse((ROOT / "tests" / path).read_text())
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {function.name: ast.get_docstring(function) or "" for function in functions}


def test_each_row_is_held_by_tests_that_exist() -> None:
    """A row names tests that are there; one of them names the row, but for what only a proof as a whole can show."""
    assert len(ROWS) > 70
    for number, held in ROWS.items():
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", held)
        assert named, number
        sentences = [sentences_of(path).get(name) for path, name in named]
        assert None not in sentences, (number, held)
        if number not in ("M1", "M2", "M6", "M12"):
            assert any(re.search(rf"\b{number}\b", str(sentence)) for sentence in sentences), number


def test_each_number_leads_to_a_row() -> None:
    """A number in a comment or a docstring is in the catalogue."""
    named: set[str] = set()
    for folder in ("elastic_events", "elastic_metrics", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            named |= set(re.findall(r"\(((?:[FM]\d+(?:, )?)+)\)", path.read_text()))
    assert {number for numbers in named for number in numbers.split(", ")} <= set(ROWS)
