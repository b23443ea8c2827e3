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
    "<IsTruncated>{truncated}</IsTruncated>{token}{entries}</ListBucketResult>"
)
_TOKEN = "<NextContinuationToken>{}</NextContinuationToken>"
_PAGE = 1000


def write_objects(folder: Path, case: Case, body: Path | None = None) -> None:
    """Random objects, or links to `body`, and the ListObjectsV2 answers that name them.

    Those that are only listed are not there.
    """
    bucket = folder / case.bucket
    bucket.mkdir(parents=True)
    for key in case.keys if case.size else ():
        if body is None:
            _write_random(bucket / key, case.size)
        else:
            (bucket / key).hardlink_to(body)
    entries = [_entry(bucket / key if case.size else bucket, key) for key in case.keys]
    for first in range(0, case.count, _PAGE):
        _write_page(bucket, first, entries)


def _write_page(bucket: Path, first: int, entries: list[str]) -> None:
    """The first page is `BUCKET.xml`; the others are called by their continuation token, `BUCKET.TOKEN.xml`."""
    some, more = entries[first : first + _PAGE], first + _PAGE < len(entries)
    token = _TOKEN.format(first + _PAGE) if more else ""
    listing = _LISTING.format(
        bucket=bucket.name, count=len(some), truncated=str(more).lower(), token=token, entries="".join(some)
    )
    bucket.with_name(f"{bucket.name}{f'.{first}' if first else ''}.xml").write_text(listing)


def etag(path: Path) -> str:
    """The ETag that nginx gives a file."""
    about = path.stat()
    return f'"{int(about.st_mtime):x}-{about.st_size:x}"'


def _write_random(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for start in range(0, size, MiB):
            file.write(os.urandom(min(MiB, size - start)))


def _entry(path: Path, key: str) -> str:
    about = path.stat()
    modified = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(about.st_mtime))
    return _ENTRY.format(key=key, modified=modified, etag=etag(path), size=about.st_size)
