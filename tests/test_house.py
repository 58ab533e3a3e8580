"""Where a line belongs: imports run one way, and the core's hot modules stay what they are."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: Room, or file, -> its storey; a file that is not named lives in its room's.
STOREYS = {
    "api": 0,
    "bus": 1,
    "recorder.alive": 2,
    "recorder.directory": 2,
    "recorder.format": 2,
    "recorder.page": 2,
    "recorder.reader": 2,
    "recorder.request": 2,
    "recorder.segment": 2,
    "recorder.spool": 2,
    "recorder.writer": 2,
    "front": 3,
    "sinks": 4,
    "handlers": 4,
    "training": 4,
    "observe": 5,
    # What makes of the parts a bus that writes to files and sinks.
    "bus.subscription": 5,
    "bus.delivery": 6,
    "bus.lane": 6,
    "bus.drain": 6,
    "bus.ending": 6,
    "bus.life": 6,
    "bus.subscribing": 6,
    "bus.bus": 6,
    "recorder.collector": 6,
    "recorder.collecting": 6,
    "recorder": 7,
    "recording": 8,
    "testing": 8,
    "pytest_plugin": 9,
    "elastic_metrics": 9,
    "reading": 10,
    "torchrun": 10,
    "demo": 11,
    "cli": 12,
    "__main__": 13,
}
FILES = [*(ROOT / "elastic_events").rglob("*.py"), *(ROOT / "elastic_metrics").rglob("*.py")]


def module(path: Path) -> str:
    """Return the name of the module in a file; a package's is that of its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class _Run(ast.NodeTransformer):
    """Leaves of a file what runs."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        """Leave out what is for type checkers only."""
        return None if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" else self.generic_visit(node)


MODULES = {module(path): path for path in FILES}


def imports(path: Path) -> set[str]:
    """Return the modules of ours that a file imports, also within functions, but not for type checkers only."""
    found: set[str] = set()
    for node in ast.walk(_Run().visit(ast.parse(path.read_text("utf-8")))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in MODULES else node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    # A package is imported before its modules; those find it there.
    packages = {name.rpartition(".")[0] for name in found} - {module(path).rpartition(".")[0]}
    return {name for name in found | packages if name in MODULES} - {module(path)}


IMPORTS = {name: imports(path) for name, path in MODULES.items()}


def storey(name: str) -> int:
    """Return the storey of a module: its own, or that of the room it is in."""
    place = name.removeprefix("elastic_events.")
    while place not in STOREYS:
        place = place.rpartition(".")[0]
    return STOREYS[place]


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"elastic_events"}))
def test_imports_run_one_way(name: str) -> None:
    """A module imports its own storey and those below it, also within functions."""
    for other in IMPORTS[name] - {"elastic_events", "elastic_events.bus", "elastic_events.recorder"}:
        assert storey(other) <= storey(name), f"{name} imports {other}"


def test_no_two_files_are_in_a_circle() -> None:
    """Whichever file is imported first, it finds what it imports whole; nothing depends on who came before."""
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " imports ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in sorted(IMPORTS[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in IMPORTS:
        visit(name, ())


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


@pytest.mark.parametrize("package", [path for path in FILES if path.name == "__init__.py"], ids=module)
def test_no_public_name_is_a_module_too(package: Path) -> None:
    """What a package gives under a name is not replaced by a module of that name which somebody imports first."""
    public = next(
        (
            ast.literal_eval(node.value)
            for node in ast.parse(package.read_text("utf-8")).body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        ),
        (),
    )
    assert not {path.stem for path in package.parent.iterdir()}.intersection(public)
