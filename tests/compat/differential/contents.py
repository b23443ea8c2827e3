"""What lies in the bucket that the cases read: written once, by neither library."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import torch
from botocore.config import Config

from ...servers.seaweedfs import SeaweedFS
from .kit import Place

TRAIN = {f"train/{number:02}": b"line\n" * number for number in range(1, 12)}
MANY = 1003
"""Objects below `many/`: more than one page of a listing."""

NAMED = {
    f"special/{name}": name.encode()
    for name in ("a b", "a%20b", "a+b", "a#b?c=d&e", "é/ü 日本", "~!$*()", "'\"", "[x]{y}", "x=y;z,@:")
}

MARKED = {"folders/": b"", "folders/a": b"1", "folders/sub/": b"", "folders/sub/b": b"2"}

LARGE = np.random.default_rng(7).integers(0, 256, (12 << 20) + 345, dtype=np.uint8).tobytes()
"""More than one part, and not a whole number of them."""

LINES = b"one\n\ntwo\r\nthree, which is longer\n" * 3 + b"the end"
STATE = {"weight": torch.arange(600.0).reshape(20, 30), "bias": torch.ones(3, dtype=torch.float16), "step": 7}
ARRAY = np.arange(100, dtype="<i4").reshape(4, 25)


def contents() -> dict[str, bytes]:
    """The objects by key."""
    files = {
        "files/tar": _tar(),
        "files/zip": _zip(),
        "files/npy": _saved(lambda file: np.save(file, ARRAY)),
        "files/model.zip.pt": _saved(lambda file: torch.save(STATE, file)),
        "files/model.old.pt": _saved(lambda file: torch.save(STATE, file, _use_new_zipfile_serialization=False)),
        "files/lines": LINES,
        "files/large": LARGE,
    }
    many = {f"many/{number:04}": b"" for number in range(MANY)}
    return TRAIN | NAMED | MARKED | files | many | {"/slash": b"begins with a slash", "alone": b"by itself"}


@contextmanager
def filled(server: SeaweedFS, files: Path) -> Iterator[Place]:
    """The place of all cases."""
    settings = Config(max_pool_connections=16, retries={"total_max_attempts": 2})
    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name=server.region,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        config=settings,
    )
    place = Place(server, client, files)
    for bucket in (place.bucket, place.other_bucket, place.public_bucket):
        server.create_bucket(bucket)
    client.put_object(Bucket=place.public_bucket, Key="open", Body=b"for everybody")
    bodies = contents()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: client.put_object(Bucket=place.bucket, Key=key, Body=bodies[key]), bodies))
    try:
        yield place
    finally:
        client.close()


def _saved(save: Any) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("a", "b"):
            member = tarfile.TarInfo(name)
            member.size = 3000
            archive.addfile(member, io.BytesIO(name.encode() * 3000))
    return file.getvalue()


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a", "b"):
            archive.writestr(zipfile.ZipInfo(name), name * 3000)
    return file.getvalue()
