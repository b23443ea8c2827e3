"""S3 and Azure as fault servers that keep what every verb of writing leaves: objects, parts, copies. Google's is
:class:`.gcs.ScriptedGCS`.

An answer that is given in full, as `Fault.raw`, has no effect: nothing was done, whatever it says.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import replace
from email.utils import formatdate
from typing import TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import trio

from s3dlio.blocking.portal import portal

from .faults import Asked, Fault, FaultServer, Truth, error_body, etag_of
from .process import HOST

Server = TypeVar("Server", bound=FaultServer)


class WritableS3(FaultServer):
    """Buckets with multipart uploads, copies and DeleteObjects. Uploads by id, each with its path and parts."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self.uploads: dict[str, tuple[str, dict[int, bytes]]] = {}
        self.begun = 0
        self.described: dict[str, dict[str, str]] = {}
        """Headers of the objects that were made of parts."""

    def answer(self, asked: Asked, fault: Fault) -> Truth:
        parts = urlsplit(asked.target)
        path, query = unquote(parts.path), {name: values[0] for name, values in _query(parts.query).items()}
        if "uploads" in query:
            self.begun += 1
            self.uploads[f"upload-{self.begun}"] = (path, {})
            return _xml("InitiateMultipartUploadResult", f"<UploadId>upload-{self.begun}</UploadId>")
        if "uploadId" in query:
            return self._about_upload(asked, query)
        if "delete" in query:
            return self._delete_together(path, asked.body.decode())
        if "x-amz-copy-source" in asked.headers:
            return self._copy(unquote(asked.headers["x-amz-copy-source"]), path)
        truth = super().answer(asked, fault)
        described = {} if asked.method == "PUT" or truth.status >= 300 else self.described.get(path, {})
        return replace(truth, headers=truth.headers | described)

    def _about_upload(self, asked: Asked, query: dict[str, str]) -> Truth:
        name = query["uploadId"]
        if name not in self.uploads:
            return Truth(404, {}, error_body("NoSuchUpload"))
        path, parts = self.uploads[name]
        if asked.method == "PUT":
            parts[int(query["partNumber"])] = asked.body
            return Truth(200, {"etag": etag_of(asked.body)})
        del self.uploads[name]
        if asked.method == "DELETE":
            return Truth(204)
        listed = re.findall(r"<PartNumber>(\d+)</PartNumber>", asked.body.decode())
        self.objects[path] = b"".join(parts[int(number)] for number in listed)
        digests = b"".join(bytes.fromhex(etag_of(parts[int(number)]).strip('"')) for number in listed)
        etag = f'"{etag_of(digests)[1:-1]}-{len(listed)}"'
        self.described[path] = {"etag": etag, "last-modified": formatdate(usegmt=True)}
        return _xml("CompleteMultipartUploadResult", f"<ETag>{etag}</ETag>")

    def _delete_together(self, bucket: str, body: str) -> Truth:
        for key in re.findall("<Key>(.*?)</Key>", body):
            self.objects.pop(f"{bucket.rstrip('/')}/{key}", None)
        return _xml("DeleteResult", "")

    def _copy(self, source: str, path: str) -> Truth:
        if source not in self.objects:
            return Truth(404, {}, error_body("NoSuchKey"))
        self.objects[path] = self.objects[source]
        return _xml("CopyObjectResult", f"<ETag>{etag_of(self.objects[path])}</ETag>")


class WritableAzure(FaultServer):
    """Containers of block blobs. Blocks by their blob's path and their id."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self.blocks: dict[tuple[str, str], bytes] = {}

    def answer(self, asked: Asked, fault: Fault) -> Truth:
        parts = urlsplit(asked.target)
        path, query = unquote(parts.path), {name: values[0] for name, values in _query(parts.query).items()}
        if asked.method == "DELETE":
            gone = self.objects.pop(path, None) is None
            return Truth(404, {"x-ms-error-code": "BlobNotFound"}) if gone else Truth(202)
        if asked.method != "PUT":
            return super().answer(asked, fault)
        if query.get("comp") == "block":
            self.blocks[path, query["blockid"]] = asked.body
            return Truth(201)
        if query.get("comp") == "blocklist":
            ids = re.findall("<Latest>(.*?)</Latest>", asked.body.decode())
            assert all(b64decode(name) for name in ids)
            return self._made(path, b"".join(self.blocks[path, name] for name in ids))
        if source := asked.headers.get("x-ms-copy-source"):
            made = self._made(path, self.objects[unquote(urlsplit(source).path)])
            return Truth(202, made.headers | {"x-ms-copy-status": "success", "x-ms-copy-id": "copy"})
        return self._made(path, asked.body)

    def _made(self, path: str, data: bytes) -> Truth:
        self.objects[path] = data
        return Truth(201, {"etag": etag_of(data)})


def _query(text: str) -> dict[str, list[str]]:
    return parse_qs(text, keep_blank_values=True)


def _xml(root: str, content: str) -> Truth:
    return Truth(200, {}, f"<?xml version='1.0'?><{root}>{content}</{root}>".encode())


@asynccontextmanager
async def serving(kind: type[Server]) -> AsyncIterator[Server]:
    """Such a server on a free port, gone with all its connections at the end of the block."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host=HOST)
        server = kind(f"http://{HOST}:{listener.socket.getsockname()[1]}")
        nursery.start_soon(trio.serve_listeners, server.serve, [listener])
        yield server
        nursery.cancel_scope.cancel()


@contextmanager
def on_portal(opening: AbstractAsyncContextManager[Server]) -> Iterator[Server]:
    """A server on the loop of the blocking calls, for tests that run none."""
    held = portal().enter(opening)
    try:
        yield held.value
    finally:
        held.leave()
