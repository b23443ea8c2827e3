"""The objects on disk, as the servers here serve them: `FOLDER/BUCKET/KEY`, and `FOLDER/BUCKET.xml`, the listing."""

from __future__ import annotations

import os
import time
from pathlib import Path

from .cases import Case, MiB

_ENTRY = (
    "<Contents><Key>{key}</Key><LastModified>{modified}</LastModified><ETag>{etag}</ETag><Size>{size}</Size>"
    "<StorageClass>STANDARD</StorageClass></Contents>"
)
_LISTING = (
    '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    "<Name>{bucket}</Name><Prefix></Prefix><KeyCount>{count}</KeyCount><MaxKeys>1000</MaxKeys>"
    "<IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
)


def write_objects(folder: Path, case: Case) -> None:
    """Random objects, and the ListObjectsV2 answer that names them: one page, so at most 1,000."""
    bucket = folder / case.bucket
    bucket.mkdir()
    for key in case.keys:
        _write_random(bucket / key, case.size)
    entries = "".join(_entry(bucket / key) for key in case.keys)
    listing = _LISTING.format(bucket=case.bucket, count=case.count, entries=entries)
    bucket.with_suffix(".xml").write_text(listing)


def etag(path: Path) -> str:
    """The ETag that nginx gives a file."""
    about = path.stat()
    return f'"{int(about.st_mtime):x}-{about.st_size:x}"'


def _write_random(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for start in range(0, size, MiB):
            file.write(os.urandom(min(MiB, size - start)))


def _entry(path: Path) -> str:
    about = path.stat()
    modified = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(about.st_mtime))
    return _ENTRY.format(key=path.name, modified=modified, etag=etag(path), size=about.st_size)
