"""What is different about directory buckets (S3 Express One Zone): pure.

Their names end in the zone that they are in. They are listed folder by folder, in no order: so what a prefix leaves
open below its folder, and what comes after a key, is picked out of what is answered.

Source: "Differences for directory buckets" in the Amazon S3 User Guide; "ListObjectsV2" and "CreateSession" in the
Amazon S3 API Reference.
"""

from __future__ import annotations

import re
from dataclasses import replace

from ...auth.sigv4 import Credentials
from ...errors import ErrorContext, ProtocolError, UnsupportedError
from ...model import ListOptions, ListPage, ObjectColumns, iso_time
from ..xml import parse, text_of

_DIRECTORY = re.compile(r"[a-z0-9-]+--([a-z0-9-]+)--x-s3")


def zone_of(bucket: str) -> str | None:
    """The zone that a directory bucket is in; `None` for other buckets."""
    match = _DIRECTORY.fullmatch(bucket)
    return match[1].rpartition("--")[2] if match else None


def folder_of(prefix: str) -> str:
    """What is asked for to find all keys that start with `prefix`."""
    return prefix[: prefix.rfind("/") + 1]


def check_listing(options: ListOptions, context: ErrorContext) -> None:
    """Errors: `UnsupportedError` for a listing that such a bucket has not."""
    if options.delimiter not in ("", "/"):
        raise UnsupportedError("a directory bucket has no delimiter but '/'", context)
    if options.delimiter and options.start_after:
        raise UnsupportedError("a directory bucket is listed in no order, so no folder comes after a key", context)


def picked(page: ListPage, prefix: str, start_after: str) -> ListPage:
    """Of a page of the folder, what starts with `prefix` and comes after a key: it may become empty."""
    if prefix.endswith("/") and not start_after:
        return page
    objects = ObjectColumns.of(page.objects).where(lambda key: key.startswith(prefix) and key > start_after)
    return replace(page, objects=objects, prefixes=tuple(name for name in page.prefixes if name.startswith(prefix)))


def parse_session(body: bytes) -> Credentials:
    """The session that CreateSession answers with. Errors: `ProtocolError`, without the body."""
    session = _session(body)
    del body
    if session is None:
        raise ProtocolError("the answer to CreateSession has no session")
    return session


def _session(body: bytes) -> Credentials | None:
    try:
        found = parse(body, "CreateSessionResult").find("Credentials")
    except ProtocolError:
        return None
    names = ("AccessKeyId", "SecretAccessKey", "SessionToken")
    access_key, secret_key, token = (text_of(found, name) for name in names)
    expiry = iso_time(text_of(found, "Expiration"))
    if access_key is None or secret_key is None or token is None or expiry is None:
        return None
    return Credentials(access_key, secret_key, token, expiry.timestamp())
