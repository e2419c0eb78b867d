"""Every notebook runs from top to bottom, asserts its claims, and was saved with its outputs."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from tests.processes import forked
from w2vlab.data.corpora.packaged.apt import FESTVOX_RU
from w2vlab.utils.files import cache_root

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(notebook: NotebookNode) -> list[int]:
    """The number of images in the output of each cell."""
    return [sum("image/png" in output.get("data", {}) for output in cell.outputs) for cell in code_cells(notebook)]


def test_notebooks_are_numbered() -> None:
    assert [path.name[:3] for path in NOTEBOOKS] == [f"{number:02}_" for number in range(1, len(NOTEBOOKS) + 1)]
    assert len(NOTEBOOKS) >= 7


@notebooks
def test_was_saved_as_executed(path: Path) -> None:
    cells = code_cells(nbformat.read(path, as_version=4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs), "a notebook shows something"
    assert not [output for output in outputs if output.get("name") == "stderr"], "no warnings in what readers see"
    text = "".join(
        str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", "")) for output in outputs
    )
    assert not re.search(r"/(root|home|tmp|work)/", text), "paths of a machine"
    assert path.stat().st_size < 1_000_000


@notebooks
def test_claims_are_asserted(path: Path) -> None:
    source = "\n".join(cell.source for cell in code_cells(nbformat.read(path, as_version=4)))
    assert source.count("assert ") >= 5


@notebooks
def test_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr("jupyter_client.launcher.Popen", forked.Popen)
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # as a kernel sets it before imports
    notebook = nbformat.read(path, as_version=4)
    if "w2vlab" in notebook.metadata and not FESTVOX_RU.is_complete(FESTVOX_RU.audio_folder(cache_root(None))):
        pytest.skip("needs the sample corpus, which no test fetches; `w2vlab fit --config notebooks/toy.yaml` does")
    client = NotebookClient(notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}})
    before = pictures(notebook)
    client.execute()  # raises at the first assertion that fails
    assert pictures(notebook) == before


@pytest.mark.parametrize("picture", sorted((ROOT / "docs/pictures").glob("notebook_*.png")), ids=lambda path: path.stem)
def test_an_image_of_the_docs_is_an_output_of_a_notebook(picture: Path) -> None:
    number = picture.stem.split("_")[1]
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    outputs = [output for cell in code_cells(nbformat.read(path, as_version=4)) for output in cell.outputs]
    shown = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert picture.read_bytes() in [base64.b64decode(image) for image in shown]
    assert f"](../pictures/{picture.name})" in (ROOT / "docs/understand/understanding.md").read_text(encoding="utf-8")


@notebooks
def test_questions_are_not_numbered(path: Path) -> None:
    text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
    assert not re.search(r"(?i)question \d|\*\*\d+[a-z]?[,.]", text)
