"""The same steps with `s3torchconnector` itself and with ours, on one server: the same outcome."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import s3torchconnector as original
import torch

from s3dlio.compat import s3torchconnector as ours

from ..servers.seaweedfs import SeaweedFS

BODIES = {f"train/{number:02}": b"line\n" * number for number in range(1, 12)} | {"train/special +%20é?#": b"some text"}


@pytest.fixture(scope="module")
def shared_bucket(s3_server: SeaweedFS) -> str:
    """One bucket, filled by the original."""
    s3_server.create_bucket("compared")
    with pytest.MonkeyPatch.context() as patched:
        for name, value in s3_server.environment().items():
            patched.setenv(name, value)
        for key, body in BODIES.items():
            with original.S3Checkpoint("us-east-1").writer(f"s3://compared/{key}") as writer:
                writer.write(body)
    return "compared"


def _outcome(step: Callable[[], Any]) -> tuple[str, object]:
    """What a step gives, or the name and text of what it raises; texts of TypeErrors are Python's or Rust's own."""
    try:
        return "gives", step()
    except TypeError:
        return "raises", TypeError
    except Exception as error:
        is_s3 = isinstance(error, (ours.S3Exception, original.S3Exception))
        return "S3Exception" if is_s3 else type(error).__name__, str(error)


def _file(reader: Any) -> Iterator[object]:
    """Reads, seeks and their errors."""
    yield _outcome(lambda: reader.read(3))
    yield _outcome(lambda: (reader.readline(), reader.tell()))
    yield _outcome(lambda: reader.readline(2))
    yield _outcome(lambda: reader.seek(-2, io.SEEK_CUR))
    yield _outcome(lambda: reader.seek(-3, io.SEEK_END))
    yield _outcome(lambda: reader.readinto(target := bytearray(5)) and bytes(target))
    yield _outcome(lambda: reader.read())
    yield _outcome(lambda: reader.seek(10_000))
    yield _outcome(lambda: reader.seek(-1))
    yield _outcome(lambda: reader.seek(0, 7))
    yield _outcome(lambda: reader.seek(1.5))
    yield _outcome(lambda: reader.read("x"))
    yield _outcome(lambda: (reader.seek(0), reader.read(1), reader.readinto(b"x")))
    yield _outcome(lambda: (reader.seek(0), reader.readlines()))
    yield _outcome(lambda: (reader.readable(), reader.writable(), reader.seekable(), reader.isatty(), reader.closed))
    yield _outcome(lambda: (reader.close(), reader.closed, reader.seek(1), reader.read()))
    yield _outcome(lambda: next(iter(reader)))
    yield _outcome(reader.__enter__)
    yield _outcome(reader.flush)
    yield _outcome(reader.fileno)
    yield _outcome(reader.truncate)


def _readers(module: Any, bucket: str) -> Iterator[object]:
    checkpoint = module.S3Checkpoint("us-east-1")
    for key in ("train/05", "train/special +%20é?#", "absent"):
        yield from _file(checkpoint.reader(f"s3://{bucket}/{key}"))
    yield _outcome(lambda: checkpoint.reader(f"s3://{bucket}/absent").seek(0, 2))
    yield _outcome(lambda: checkpoint.reader(f"s3://{bucket}/absent").seek(0))
    yield _outcome(lambda: pickle.loads(pickle.dumps(checkpoint.reader(f"s3://{bucket}/train/05"))).read())


def _datasets(module: Any, bucket: str) -> Iterator[object]:
    where = {"region": "us-east-1"}
    mapped = module.S3MapDataset.from_prefix(f"s3://{bucket}/train/", **where)
    yield _outcome(lambda: len(mapped))
    yield _outcome(lambda: [(reader.bucket, reader.key, reader.read()) for reader in mapped])
    yield _outcome(lambda: [mapped[-1].key, mapped[torch.tensor(2)].key])
    yield _outcome(lambda: mapped[99])
    yield _outcome(lambda: mapped[1.0])
    iterable = module.S3IterableDataset.from_prefix(f"s3://{bucket}/train/0", transform=_key_and_size, **where)
    yield _outcome(lambda: [list(iterable), list(iterable)])
    yield _outcome(lambda: list(pickle.loads(pickle.dumps(iterable))))
    yield _outcome(lambda: len(iterable))
    for uri in ("x", "", None, "s3://", "s3:///key", "s3://no-such-bucket-anywhere/"):
        yield _outcome(partial(len, module.S3MapDataset.from_prefix(uri, **where)))
        yield _outcome(partial(list, module.S3IterableDataset.from_prefix(uri, **where)))


def _key_and_size(reader: Any) -> tuple[str, int]:
    return reader.key, reader.seek(0, io.SEEK_END)


def _writers(module: Any, bucket: str) -> Iterator[object]:
    checkpoint = module.S3Checkpoint("us-east-1")
    uri = f"s3://{bucket}/written"
    writer = checkpoint.writer(uri)
    for data in (b"abc", memoryview(b"def")[1:], np.arange(4, dtype="<i2").data, "text", 5, b""):
        yield _outcome(partial(writer.write, data))
        yield _outcome(writer.tell)
    yield _outcome(lambda: (writer.readable(), writer.writable(), writer.seekable(), writer.closed))
    yield _outcome(writer.read)
    yield _outcome(lambda: (writer.flush(), writer.close(), writer.close(), writer.writable(), writer.closed))
    yield _outcome(lambda: writer.write(b"more"))
    yield _outcome(lambda: checkpoint.reader(uri).read())


@pytest.mark.parametrize("steps", [_readers, _datasets, _writers])
def test_the_outcomes_are_the_same(
    steps: Callable[[Any, str], Iterator[object]], shared_bucket: str, s3_environment: SeaweedFS
) -> None:
    assert list(steps(ours, shared_bucket)) == list(steps(original, shared_bucket))


@pytest.mark.parametrize(("saver", "loader"), [(ours, original), (original, ours)])
@pytest.mark.parametrize("zipped", [True, False])
def test_each_loads_what_the_other_saved(
    saver: Any, loader: Any, zipped: bool, shared_bucket: str, s3_environment: SeaweedFS
) -> None:
    state, uri = {"weight": torch.arange(1000.0)}, f"s3://{shared_bucket}/model"
    with saver.S3Checkpoint("us-east-1").writer(uri) as writer:
        torch.save(state, writer, _use_new_zipfile_serialization=zipped)
    with loader.S3Checkpoint("us-east-1").reader(uri) as reader:
        assert torch.equal(torch.load(reader, weights_only=True)["weight"], state["weight"])
