"""The example `examples/lightning_digits.py`, as a user runs it: twice."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

import s3dlio
from s3dlio.compat.s3torchconnector.lightning import S3LightningCheckpoint

from .training import ADVICE

pytestmark = [*ADVICE, pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")]

SCRIPT = Path(__file__).parents[3] / "examples" / "lightning_digits.py"


@pytest.mark.usefixtures("s3_environment")
def test_the_second_run_goes_on_where_the_first_ended(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint, accuracies = f"s3://{bucket}/checkpoints/newest.ckpt", []
    for epochs, begin in ((1, "a new network"), (2, checkpoint)):
        monkeypatch.setattr("sys.argv", [str(SCRIPT), f"s3://{bucket}", "--epochs", str(epochs)])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        printed = capsys.readouterr().out
        assert f"beginning with {begin}\n" in printed
        found = re.search(rf"epochs: {epochs}, test accuracy: ([\d.]+)%\n", printed)
        assert found, printed
        accuracies.append(float(found[1]))
        assert S3LightningCheckpoint("us-east-1").load_checkpoint(checkpoint)["epoch"] == epochs - 1
    assert max(85, accuracies[0]) < accuracies[1]
    assert [entry.key for entry in s3dlio.list(f"s3://{bucket}/checkpoints/")] == ["checkpoints/newest.ckpt"]
    assert len(list(s3dlio.list(f"s3://{bucket}/t"))) == 1797
    assert not list(tmp_path.iterdir())
