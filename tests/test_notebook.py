"""The notebooks run from top to bottom, each in a kernel of its own, and give what is committed with them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
EXACT = {"quickstart"}
"""Those that show no times and speeds."""


def results(notebook: Any, *, exact: bool) -> list[tuple[str, str]]:
    """What kinds of output the cells have, and, where it is `exact`, what they say, without tables (they tell times).

    Warnings (stderr) are left out.
    """
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    shown = [(_kind(output), output) for output in outputs if output.get("name") != "stderr"]
    return [(kind, _text(output) if exact and "html" not in kind else "") for kind, output in shown]


def _kind(output: Any) -> str:
    return " ".join([output.output_type, *sorted(output.get("data", {}))])


def _text(output: Any) -> str:
    return str(output.text if output.output_type == "stream" else output.data["text/plain"])


def executed(name: str, folder: Path) -> Any:
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    for cell in notebook.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(
        notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return notebook


def test_all_are_there() -> None:
    assert {"quickstart", "explore", "trio", "direct_io", "endpoints", "benchmarks", "weights"} <= NOTEBOOKS.keys()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_gives_what_is_committed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIRECT_MIB", "16")
    monkeypatch.setenv("WEIGHTS_ROWS", "512")
    exact = name in EXACT
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".disk-") as disk:
        monkeypatch.setenv("DIRECT_FOLDER", disk)
        found = results(executed(name, tmp_path), exact=exact)
    assert found == results(nbformat.read(NOTEBOOKS[name], as_version=4), exact=exact)


@pytest.mark.usefixtures("s3_environment")
def test_quickstart_on_a_real_server(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICKSTART_URI", f"s3://{bucket}/quickstart")
    found = results(executed("quickstart", tmp_path), exact=True)
    assert found == results(nbformat.read(NOTEBOOKS["quickstart"], as_version=4), exact=True)


@pytest.mark.usefixtures("s3_environment")
def test_an_error_is_the_output_of_its_cell(bucket: str) -> None:
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(f"import s3dlio\ns3dlio.get('s3://{bucket}/absent')")]
    NotebookClient(notebook, timeout=200, kernel_name="python3", allow_errors=True).execute()
    (error,) = notebook.cells[0].outputs
    assert (error.output_type, error.ename) == ("error", "NotFoundError")
    assert "key='absent'" in error.evalue
    shown = "\n".join(error.traceback)
    assert shown.count("Traceback (most recent call last)") == 1
    assert shown.count(".py:") <= 5
    assert "exceptiongroup" not in shown.lower()
