"""Servers that repeat themselves for ever, or leave out what others say."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from s3dlio.alignment.checksum import crc64nvme
from s3dlio.errors import IntegrityError, PreconditionFailedError, ProtocolError
from s3dlio.model import ObjectMeta, PutOptions
from s3dlio.stores.http import HttpStore

from ..servers.clouds import WritableAzure, serving
from ..servers.faults import Fault, fault_server
from ..servers.gcs import BUCKET, ScriptedGCS, scripted_gcs
from .test_faults import CLOUDS, azure, gcs, s3

TOKEN = "again\n" + "x" * 500
PAGES: dict[str, bytes] = {
    "s3": f"<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>{TOKEN}</NextContinuationToken>"
    "</ListBucketResult>".encode(),
    "azure": f"<EnumerationResults><Blobs/><NextMarker>{TOKEN}</NextMarker></EnumerationResults>".encode(),
    "gcs": json.dumps({"nextPageToken": TOKEN}).encode(),
}


async def listed(store: HttpStore) -> list[ObjectMeta]:
    return [meta async for page in store.list() for meta in page.objects]


async def listed_from(store: HttpStore) -> list[ObjectMeta]:
    return [meta async for page in store.list("", delimiter="/", start_after="a/b") for meta in page.objects]


@pytest.mark.parametrize("work", [listed, listed_from])
@pytest.mark.parametrize("cloud", CLOUDS)
async def test_a_token_that_leads_to_itself(cloud: str, work: Callable[[HttpStore], Any], clock: MockClock) -> None:
    async with fault_server() as server, CLOUDS[cloud].make(server.endpoint) as store:
        server.always = Fault(200, body=PAGES[cloud])
        with pytest.raises(ProtocolError, match=r"again x+") as caught:
            await work(store)
    assert len(server.requests) == 2
    assert (caught.value.bucket, len(str(caught.value)) < 500, str(caught.value).isprintable()) == ("con", True, True)


async def test_a_prefix_that_is_looked_into_for_ever(clock: MockClock) -> None:
    """Azure cannot be told where to begin, so a prefix may have to be listed itself."""
    page = b"<EnumerationResults><Blobs><BlobPrefix><Name>a/</Name></BlobPrefix></Blobs></EnumerationResults>"
    async with fault_server() as server, azure(server.endpoint) as store:
        server.script.append(Fault(200, body=page))
        server.always = Fault(200, body=PAGES["azure"])
        with pytest.raises(ProtocolError, match="again"):
            await listed_from(store)
    assert len(server.requests) == 3


@pytest.fixture
async def google() -> AsyncIterator[tuple[ScriptedGCS, HttpStore]]:
    async with scripted_gcs() as server:
        store = gcs(server.endpoint)
        store.bucket = BUCKET
        async with store:
            server.store("key", b"content")
            yield server, store


@pytest.mark.parametrize("more", [{}, {"totalBytesRewritten": "7"}])
async def test_a_copy_that_never_ends(google: tuple[ScriptedGCS, HttpStore], more: dict[str, str]) -> None:
    server, store = google
    server.always = Fault(200, body=json.dumps({"done": False, "rewriteToken": "half+done/=", **more}).encode())
    with pytest.raises(ProtocolError, match=r"'half\+done/='") as caught:
        await store.copy("key", "target")
    assert (caught.value.operation, caught.value.key) == ("objects.rewrite", "key")
    assert len(server.requests) == 2


async def test_a_long_copy_goes_on_while_it_moves(google: tuple[ScriptedGCS, HttpStore]) -> None:
    server, store = google
    for moved in range(5):
        going = {"done": False, "rewriteToken": "half+done/=", "totalBytesRewritten": str(moved)}
        server.script.append(Fault(200, body=json.dumps(going).encode()))
    await store.copy("key", "target")
    assert server.objects["target"] == b"content"


@pytest.mark.parametrize("flips", [1, 2])
async def test_a_flipped_bit_is_fetched_again_once(google: tuple[ScriptedGCS, HttpStore], flips: int) -> None:
    server, store = google
    server.script.extend([Fault(body=b"Content")] * flips)
    if flips == 1:
        assert await store.get("key") == b"content"
    else:
        with pytest.raises(IntegrityError):
            await store.get("key")
    first, second = server.requests
    assert "generation=" not in first.target
    assert f"generation={server.resources['key']['generation']}" in second.target


@pytest.mark.parametrize("content", [b"", b"content"])
@pytest.mark.parametrize(("make", "root"), [(s3, "/con/"), (azure, "/acct/con/")])
async def test_a_head_without_a_length(make: Callable[[str], HttpStore], root: str, content: bytes) -> None:
    async with fault_server() as server, make(server.endpoint) as store:
        server.objects[f"{root}key"] = content
        for _ in range(2):
            server.script.extend([Fault(headers={"content-length": None}), Fault()])
        assert (await store.head("key")).size == len(content)
        assert await store.exists("key")
    assert [asked.range for asked in server.requests] == [None, "bytes=0-0"] * 2


@pytest.mark.parametrize("make", [s3, azure])
async def test_no_write_is_held_to_a_weak_etag(make: Callable[[str], HttpStore]) -> None:
    async with fault_server() as server, make(server.endpoint) as store:
        with pytest.raises(PreconditionFailedError, match="weak") as caught:
            await store.put("key", b"", PutOptions(if_match='W/"weak"'))
    assert (caught.value.bucket, caught.value.key) == ("con", "key")
    assert server.requests == []


def crc64(data: bytes) -> str:
    """As Azure spells it: the check value of its documentation's algorithm, the least significant byte first."""
    return base64.b64encode(crc64nvme(data).to_bytes(8, "little")).decode()


@pytest.mark.parametrize(
    ("header", "right", "wrong"),
    [
        ("x-ms-content-crc64", crc64(b"content"), crc64(b"Content")),
        ("content-md5", "mgNkuembtIDdJeHwKEyFVQ==", "8VwcrniCRIs/sEBGguF+YQ=="),
    ],
)
async def test_a_block_that_arrived_otherwise(header: str, right: str, wrong: str) -> None:
    async with serving(WritableAzure) as server, azure(server.endpoint) as store:
        upload = await store.create_upload("key")
        server.script.extend([Fault(headers={header: right}), Fault(headers={header: wrong})])
        await store.upload_part(upload, 1, b"content")
        with pytest.raises(IntegrityError, match=header) as caught:
            await store.upload_part(upload, 2, b"content")
    assert (caught.value.operation, caught.value.key) == ("PutBlock", "key")


async def test_long_listings_are_read_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the loop would be held meanwhile."""
    entry = b"<Contents><Key>%d</Key><Size>1</Size></Contents>"
    body = b"<ListBucketResult>" + b"".join(entry % number for number in range(30_000)) + b"</ListBucketResult>"
    threads: list[object] = []
    real = trio.to_thread.run_sync

    async def noted(work: Callable[..., Any], *given: Any, **more: Any) -> Any:
        threads.append(work)
        return await real(work, *given, **more)

    async with fault_server() as server, s3(server.endpoint) as store:
        server.always = Fault(200, body=body)
        await store.list_page()
        threads.clear()
        monkeypatch.setattr(trio.to_thread, "run_sync", noted)
        assert len((await store.list_page()).objects) == 30_000
    assert len(threads) == 1


async def test_an_error_of_many_tags_is_what_it_begins_with(clock: MockClock) -> None:
    async with fault_server() as server, s3(server.endpoint) as store:
        for tags in (b"<a/>" * 100_000, b"<a>" * 100_000):
            server.script.append(Fault(404, body=b"<Error><Code>NoSuchKey</Code>" + tags))
            with pytest.raises(FileNotFoundError, match="NoSuchKey"):
                await store.get("key")
