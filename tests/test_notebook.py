"""The notebook runs from top to bottom, in a kernel of its own, against a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

QUICKSTART = Path(__file__).parents[1] / "notebooks" / "quickstart.ipynb"


def results(notebook: Any) -> list[str]:
    """What each cell printed or evaluated to, without the cells that did neither. Warnings (stderr) are left out."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [_text(output).strip() for output in outputs if output.get("name") != "stderr"]


def _text(output: Any) -> str:
    return str(output.text if output.output_type == "stream" else output.data["text/plain"])


@pytest.mark.usefixtures("s3_environment")
def test_quickstart(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICKSTART_BUCKET", bucket)
    notebook = nbformat.read(QUICKSTART, as_version=4)
    NotebookClient(notebook, timeout=200, kernel_name="python3").execute()
    assert results(notebook) == [
        "b'sample 42'",
        "9",
        "100 objects, 890 bytes",
        "NotFoundError quickstart/absent",
        "sum of all samples: 4950",
        "(100, 99)",
        "True",
        "False",
    ]


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
