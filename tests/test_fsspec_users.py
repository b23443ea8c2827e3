"""What opens URIs by fsspec, on every kind of store: pandas, pyarrow, zarr, dask, universal_pathlib."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import fsspec  # type: ignore[import-untyped]
import numpy as np
import pytest

pd: Any = pytest.importorskip("pandas", reason="an interpreter without it")
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def root(tree: str) -> str:
    """The folder, by the name that fsspec knows it by without a word of the program's."""
    if tree.startswith("file:"):
        pytest.skip("files are fsspec's own")
    return tree if tree.startswith("direct:") else f"s3dlio+{tree}"


@pytest.fixture
def table() -> Any:
    random = np.random.default_rng(7)
    return pd.DataFrame({"part": np.arange(1000) % 3, "value": random.normal(size=1000), "name": "sample"})


def test_pandas(root: str, table: Any) -> None:
    table.to_csv(f"{root}table.csv", index=False)
    pd.testing.assert_frame_equal(pd.read_csv(f"{root}table.csv"), table, check_dtype=False)
    table.to_parquet(f"{root}table.parquet")
    assert pd.read_parquet(f"{root}table.parquet", columns=["value"]).value.sum() == table.value.sum()
    table.to_json(f"{root}table.jsonl", lines=True, orient="records")
    assert len(pd.read_json(f"{root}table.jsonl", lines=True)) == 1000
    with pytest.raises(FileNotFoundError):
        pd.read_csv(f"{root}absent.csv")


def test_a_data_set_of_pyarrow(root: str, table: Any) -> None:
    import pyarrow as pa
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq

    files, path = fsspec.core.url_to_fs(f"{root}data")
    pq.write_to_dataset(pa.Table.from_pandas(table), path, partition_cols=["part"], filesystem=files)
    assert len(files.find(path)) == 3
    found = ds.dataset(path, filesystem=files, partitioning="hive").to_table(filter=ds.field("part") == 1)
    assert sorted(found["value"].to_pylist()) == sorted(table[table.part == 1].value)
    assert pq.read_metadata(files.find(path)[0], filesystem=files).num_rows == 334


def test_zarr(root: str) -> None:
    import zarr

    array = zarr.create_array(store=f"{root}array.zarr", shape=(60, 50), chunks=(20, 25), dtype="f4")
    array[:] = values = np.arange(3000, dtype="f4").reshape(60, 50)
    array[5:7, 3:40] = -1
    values[5:7, 3:40] = -1
    again = zarr.open_array(store=f"{root}array.zarr", mode="r")
    assert np.array_equal(again[:], values)
    assert np.array_equal(again[15:30, 20:30], values[15:30, 20:30])
    group = zarr.open_group(store=f"{root}group.zarr", mode="w")
    group.create_array("a/b", data=values)
    found: Any = zarr.open_group(store=f"{root}group.zarr", mode="r")
    assert np.array_equal(found["a/b"][:], values)


def test_dask(root: str, table: Any) -> None:
    import dask
    import dask.bag as db
    import dask.dataframe as dd

    with dask.config.set(scheduler="threads"):
        dd.from_pandas(table, npartitions=4).to_parquet(f"{root}many/")
        found = dd.read_parquet(f"{root}many/")
        assert found.npartitions == 4
        assert found.value.sum().compute() == pytest.approx(table.value.sum())
        db.from_sequence(["a\n", "b\n"], npartitions=2).to_textfiles(f"{root}text/*.txt")
        lines = db.read_text(f"{root}text/*.txt").compute()
        assert sorted(line.strip() for line in lines if line.strip()) == ["a", "b"]


PATHS = """
import sys
import s3dlio.fsspec
s3dlio.fsspec.register()
from upath import UPath
root = UPath(sys.argv[1])
path = root / "folder" / "note.txt"
path.write_text("hello")
assert (path.read_text(), path.stat().st_size, path.exists(), path.suffix) == ("hello", 5, True, ".txt")
assert type(path.fs).__module__ == "s3dlio.fsspec"
assert [each.name for each in (root / "folder").iterdir()] == ["note.txt"]
assert [each.name for each in root.glob("**/*.txt")] == ["note.txt"]
path.unlink()
assert not path.exists()
"""


def test_universal_pathlib(tree: str) -> None:
    """It takes what stands before a `+` for another protocol, so it needs the plain names."""
    if tree.startswith(("file:", "memory:", "direct:")):
        pytest.skip("it has ways of its own to these")
    done = subprocess.run([sys.executable, "-c", PATHS, tree], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
