"""The notebook of docs/ runs as it stands, and again. Needs the dependency group "docs"."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "docs/notebook.ipynb"

if find_spec("nbclient") is None and os.environ.get("ELASTIC_DOCS") != "1":
    pytest.skip("needs pip install --group docs, and ELASTIC_DOCS=1 where it must be there", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what runs the kernel


@pytest.fixture(autouse=True)
def no_loop_is_blocked() -> None:
    """The kernel's client has a loop of its own."""


def test_cells_run_and_run_again(tmp_path: Path) -> None:
    """Each cell ends without an error, the second time as well, and shows what the stored one shows."""
    import nbformat
    from nbclient import NotebookClient

    shutil.copy(NOTEBOOK, tmp_path)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    stored = shapes(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    client = NotebookClient(notebook, timeout=90, resources={"metadata": {"path": str(tmp_path)}})
    with client.setup_kernel():
        for _ in range(2):
            for index, cell in enumerate(notebook.cells):
                if cell in cells:
                    client.execute_cell(cell, index)
            assert shapes(notebook) == stored
    assert "2 attempts" not in str(cells[-1].outputs)
    assert any("succeeded 2 SIGKILL" in str(cell.outputs) for cell in cells)


def shapes(notebook: object) -> list[list[str]]:
    """Return what kinds of output each cell has."""
    cells = notebook.cells  # type: ignore[attr-defined]
    return [
        sorted(
            "text/html" if "text/html" in output.get("data", {}) else output.output_type
            for output in cell.get("outputs", ())
        )
        for cell in cells
    ]
