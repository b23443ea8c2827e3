"""No write is reported done unless it was: every verb that writes, on every cloud, through answers of all kinds.

An answer of the list that the server is given comes instead of the deed; the honest ones follow. What Hypothesis may
not use are answers that no client could tell from the truth.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from s3dlio.config import Config
from s3dlio.errors import StoreError
from s3dlio.model import PutOptions
from s3dlio.stores import AzureStore, GCSStore, S3Store
from s3dlio.stores.gcs import store as gcs_store
from s3dlio.stores.http import HttpStore

from ..servers.clouds import WritableAzure, WritableS3, serving
from ..servers.faults import NOTHING, Fault, FaultServer
from ..servers.gcs import BUCKET, ScriptedGCS

DATA = b"written by the test"
OLD = b"what was there before"


STRANGERS = [b"", b" \r\n", b"<!doctype html><html><body>Sign in", b"{}", b"[]"]
XML = [
    b"<html><ETag>x</ETag><UploadId>x</UploadId></html>",
    b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    b"<?xml version='1.0'?><Error><Code>InternalError</Code></Error>",
    b"<CompleteMultipartUploadResult/>",
    b"<CopyObjectResult><ETag></ETag></CopyObjectResult>",
    b"<InitiateMultipartUploadResult></InitiateMultipartUploadResult>",
    b"<DeleteResult><Deleted>",
    b"<CompleteMultipartUploadResult><ETag>x</ETag>",
]
JSON = [
    b'{"done": true, "resource": {}}',
    b'{"done": true, "resource": {"name": "other", "generation": "7"}}',
    b'{"name": "key", "generation": "7"}',
    b'{"name": "other", "generation": "7", "size": "19"}',
    b'{"name": "key", "generation": "7", "size": "18"}',
    b'{"name": "key", "size": "19"}',
]
INTERIMS = [b"", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n", b"HTTP/1.1 102 Processing\r\n\r\n" * 2]
STATUSES = [100, 103, 199, 203, 205, 206, 207, 226, 299, 301, 302, 307, 308, 400, 403, 500, 503]


class Lie(NamedTuple):
    """An answer that comes instead of the deed."""

    status: int
    body: bytes
    etag: bool
    interim: bytes
    cut: bool

    @property
    def fault(self) -> Fault:
        etag = b'etag: "made-up"\r\nx-ms-copy-status: success\r\n' if self.etag else b""
        length = b"content-length: %d\r\n" % (len(self.body) + 10 * self.cut)
        head = b"HTTP/1.1 %d Answer\r\n%b%bconnection: close\r\n\r\n" % (self.status, etag, length)
        return Fault(raw=self.interim + head + self.body)


@dataclass(frozen=True)
class Cloud:
    """A server, a store of its bucket, and where the server keeps a key."""

    server: type[FaultServer]
    make: Callable[[str], HttpStore]
    root: str
    success: tuple[int, ...]
    bodies: list[bytes]

    def lies(self) -> st.SearchStrategy[Lie]:
        rare = st.sampled_from([False, False, True])
        status, body = st.sampled_from(self.success) | st.sampled_from(STATUSES), st.sampled_from(self.bodies)
        return st.builds(Lie, status, body, rare, st.sampled_from(INTERIMS), rare)


CLOUDS = {
    "s3": Cloud(
        WritableS3,
        lambda at: S3Store(BUCKET, Config(endpoint=at, anonymous=True, max_attempts=3)),
        "/bucket/",
        (200, 204),
        STRANGERS + XML,
    ),
    "azure": Cloud(
        WritableAzure,
        lambda at: AzureStore(f"acct/{BUCKET}", Config(azure_endpoint=at, anonymous=True, max_attempts=3)),
        "/acct/bucket/",
        (201, 202),
        STRANGERS + XML,
    ),
    "gcs": Cloud(
        ScriptedGCS,
        lambda at: GCSStore(BUCKET, Config(gcs_endpoint=at, anonymous=True, max_attempts=3)),
        "",
        (200, 204),
        STRANGERS + JSON,
    ),
}


async def put(store: HttpStore) -> None:
    await store.put("key", DATA)


async def create(store: HttpStore) -> None:
    await store.put("new", DATA, PutOptions(if_none_match=True))


async def put_resumable(store: HttpStore) -> None:
    with patch.object(gcs_store, "RESUMABLE_FROM", 4):
        await store.put("key", DATA)


async def put_in_parts(store: HttpStore) -> None:
    upload = await store.create_upload("key")
    parts = [await store.upload_part(upload, 1, DATA[:7]), await store.upload_part(upload, 2, DATA[7:])]
    await store.complete_upload(upload, parts)


async def copy(store: HttpStore) -> None:
    await store.copy("source", "key")


async def delete(store: HttpStore) -> None:
    await store.delete("key")


async def delete_many(store: HttpStore) -> None:
    await store.delete_many(["key", "source"])


VERBS: dict[str, tuple[Callable[[HttpStore], Awaitable[None]], dict[str, bytes | None]]] = {
    # what is done, and what is there afterwards
    "put": (put, {"key": DATA}),
    "create": (create, {"new": DATA}),
    "put, resumable": (put_resumable, {"key": DATA}),
    "put in parts": (put_in_parts, {"key": DATA}),
    "copy": (copy, {"key": DATA}),
    "delete": (delete, {"key": None}),
    "delete many": (delete_many, {"key": None, "source": None}),
}


def is_indistinguishable(cloud: str, verb: str, lie: Lie) -> bool:
    """Whether this is, to the letter, the service's answer to some request of the verb."""
    if lie.cut and lie.status != 204:
        return False
    deletes = verb.startswith("delete")
    if cloud == "s3":
        return (lie.status == 204 and deletes) or (
            lie.status == 200 and lie.etag and verb.startswith(("put", "create"))
        )
    if cloud == "azure":
        parts = lie.status == 201 and verb == "put in parts"
        return parts or (lie.status == 202 and deletes) or (lie.status in (201, 202) and lie.etag)
    return deletes and (lie.status == 204 or (lie.status == 200 and not lie.body))


HONEST = st.sampled_from([Fault(), Fault(interim=INTERIMS[1]), Fault(cut=NOTHING), Fault(cut=NOTHING, reset=True)])


def trials(cloud: str) -> st.SearchStrategy[list[tuple[str, list[Fault]]]]:
    """Verbs, and how the first requests of each are answered: some well, so that every kind of request has its turn."""

    def faults(verb: str) -> st.SearchStrategy[tuple[str, list[Fault]]]:
        lies = (
            CLOUDS[cloud]
            .lies()
            .filter(lambda lie: not is_indistinguishable(cloud, verb, lie))
            .map(lambda lie: lie.fault)
        )
        well = st.integers(0, 4).map(lambda count: [Fault()] * count)
        return st.tuples(st.just(verb), st.builds(list.__add__, well, st.lists(HONEST | lies, min_size=1, max_size=3)))

    return st.lists(st.sampled_from(list(VERBS)).flatmap(faults), min_size=1, max_size=8)


@asynccontextmanager
async def served(cloud: Cloud) -> AsyncIterator[tuple[FaultServer, HttpStore]]:
    async with serving(cloud.server) as server, cloud.make(server.endpoint) as store:
        yield server, store


async def outcome(
    cloud: Cloud, server: FaultServer, store: HttpStore, verb: str, faults: list[Fault]
) -> tuple[bool, bool]:
    """Whether the verb was reported done, and whether it was."""
    do, expected = VERBS[verb]
    server.objects.clear()
    for key, content in (("key", OLD), ("source", DATA)):
        if isinstance(server, ScriptedGCS):
            server.store(key, content)
        server.objects[cloud.root + key] = content
    server.script = deque(faults)
    try:
        await do(store)
        reported = True
    except StoreError:
        reported = False
    return reported, all(server.objects.get(cloud.root + key) == content for key, content in expected.items())


async def unfounded(cloud: Cloud, wanted: list[tuple[str, list[Fault]]]) -> list[str]:
    """The verbs that were reported done, and were not."""
    async with served(cloud) as (server, store):
        found = [(verb, *await outcome(cloud, server, store, verb, faults)) for verb, faults in wanted]
    return [verb for verb, reported, done in found if reported and not done]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("cloud", CLOUDS)
async def test_honest_answers(cloud: str, verb: str) -> None:
    async with served(CLOUDS[cloud]) as (server, store):
        assert await outcome(CLOUDS[cloud], server, store, verb, [Fault(interim=INTERIMS[1])]) == (True, True)


@pytest.mark.usefixtures("without_pump")
@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_request_of_every_write_through_every_body(cloud: str) -> None:
    wanted = [
        (verb, [Fault()] * turn + [lie.fault])
        for verb, turn in product(VERBS, range(4))
        for status, body, etag in product(CLOUDS[cloud].success, CLOUDS[cloud].bodies, (False, True))
        if not is_indistinguishable(cloud, verb, lie := Lie(status, body, etag, b"", cut=False))
    ]
    assert len(wanted) > 300
    work: Any = partial(unfounded, CLOUDS[cloud], wanted)
    assert trio.run(work, clock=MockClock(autojump_threshold=0.001)) == []


@pytest.mark.usefixtures("without_pump")
@pytest.mark.parametrize("cloud", CLOUDS)
def test_no_write_is_reported_done_unless_it_was(cloud: str) -> None:
    @settings(max_examples=30, deadline=None)
    @given(trials(cloud))
    def run(wanted: list[tuple[str, list[Fault]]]) -> None:
        work: Any = partial(unfounded, CLOUDS[cloud], wanted)
        assert trio.run(work, clock=MockClock(autojump_threshold=0.001)) == []

    run()
