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
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
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
