"""Where a line belongs: imports run one way, and the core's hot modules stay what they are."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = {
    "bus": 0,
    "recorder": 1,
    "sinks": 1,
    "api": 2,
    "handlers": 2,
    "recording": 2,
    "training": 2,
    "testing": 2,
    "torchrun": 3,
    "reading": 3,
    "demo": 4,
    "cli": 5,
}
FILES = sorted((ROOT / "elastic_events").rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Give every module that a file imports, also within functions, but not for type checkers only."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    """A module imports its own layer and those below it; nothing here imports elastic_metrics but the demo, its user."""
    room = path.relative_to(ROOT / "elastic_events").parts[0].removesuffix(".py")
    if room == "__init__":
        return
    for name in imports(path):
        if name.startswith("elastic_metrics"):
            assert room in ("demo", "torchrun"), name
        parts = name.split(".")
        if parts[0] == "elastic_events" and len(parts) > 1 and parts[1] in LAYERS:
            assert LAYERS[parts[1]] <= LAYERS[room], f"{room} imports {name}"


@pytest.mark.parametrize(
    "name", ["ring.py", "codec.py", "emit.py", "pump.py", "backlog.py", "retry.py", "redact.py", "ledger.py"]
)
def test_state_and_policy_are_synchronous(name: str) -> None:
    """Async code only waits and delegates: the core's state knows nothing of it."""
    assert "async" not in (ROOT / "elastic_events/bus" / name).read_text("utf-8").replace("async handlers", "")


def test_every_failure_row_names_its_test() -> None:
    """Rows of the failure catalogue that this package answers for are named in the tests that reproduce them."""
    rows = {
        int(row)
        for path in (ROOT / "tests").rglob("test_*.py")
        for row in re.findall(r"\bF(\d+)\b", path.read_text("utf-8"))
    }
    wanted = {*range(1, 7), 8, *range(10, 20), *range(21, 30), *range(31, 37), *range(38, 48), 50, 52, 54, 55}
    wanted |= {*range(56, 71), 72, 73, 75, 76, 77}
    assert sorted(wanted - rows) == []
