"""Every example of the README and of docs/ runs, and the README's commands are what CI runs."""

import importlib.util
import os
import re
from pathlib import Path

import pytest

from tests.programs import python

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
EXAMPLES = [
    (f"{path.name}-{number}", example)
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for number, example in enumerate(re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), re.DOTALL), 1)
]

#: Frameworks of which CI has none: their examples run where they are installed.
DOORS = ("lightning", "transformers", "accelerate")


@pytest.mark.parametrize("example", [example for _, example in EXAMPLES], ids=[name for name, _ in EXAMPLES])
def test_example_runs(example: str, tmp_path: Path) -> None:
    """The example runs as it stands, in an empty folder, without a warning; where it needs torch, torch's own are let be."""
    door = next((name for name in DOORS if re.search(rf"^(import|from) .*\b{name}\b", example, re.MULTILINE)), "")
    if door and importlib.util.find_spec(door) is None:
        pytest.skip(f"needs {door}, as tests/observe/test_doors.py does")
    torchs = bool(door) or "from torch" in example
    if torchs and importlib.util.find_spec("torch") is None and os.environ.get("ELASTIC_TORCH") != "1":
        pytest.skip("needs torch")
    done = python("-W", "ignore" if torchs else "error", "-c", example, cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr
    if "page_somebody" in example:
        for line in done.stdout.splitlines():
            assert f"`{line}`" in README


def test_ci_calls_the_readmes_second_command() -> None:
    """There is one command for the tests, and CI takes it from the README."""
    assert len([line for line in README.splitlines() if "pytest" in line]) == 1
    assert "grep -m1 'pytest' README.md" in (ROOT / ".ci/run").read_text()


def test_five_minutes() -> None:
    """The README is short, and prints five promises; docs/promises.md has all twelve."""
    assert len(README.split()) <= 700
    assert [int(n) for n in re.findall(r"^(\d+)\. \*\*", README, re.MULTILINE)] == [1, 2, 3, 4, 5]


def test_every_link_leads_somewhere() -> None:
    """Each link of the README, and of the pages beside it, names a file that is there."""
    for path in ROOT.glob("*.md"):
        for link in re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text("utf-8")):
            assert (ROOT / link).exists(), f"{path.name}: {link}"
