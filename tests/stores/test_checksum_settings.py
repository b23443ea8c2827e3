"""What `checksums` of the configuration means, in each cloud: `require`, `when_there`, `off`."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from s3dlio.alignment import Checksum
from s3dlio.config import Config
from s3dlio.errors import ChecksumError, ConfigError
from s3dlio.model import BoundedRange, GetOptions
from s3dlio.stores import AzureStore, GCSStore, S3Store
from s3dlio.stores.http import HttpStore
from s3dlio.stores.s3.route import route
from s3dlio.stores.store import BytesSink, ObjectStore
from s3dlio.transfer import ParallelStore
from s3dlio.urls import open_store

from ..servers.clouds import WritableAzure, WritableS3, serving
from ..servers.faults import Fault, FaultServer
from ..servers.gcs import BUCKET, ScriptedGCS

DATA = bytes(range(256)) * 40
FLIPPED = DATA[:-1] + bytes([DATA[-1] ^ 1])
PART = 4096


def _crc(algorithm: str, data: bytes) -> str:
    return Checksum(algorithm, data).base64


@dataclass(frozen=True)
class Cloud:
    """A service: the server, the path of `key`, and how a read, or a range of it, tells the checksum of its bytes."""

    server: type[FaultServer]
    path: str
    make: Callable[[str, Any], HttpStore]
    tells: Callable[[bytes], dict[str, str]]
    asks: str | None
    """A header by which it is asked for them."""


def _s3(endpoint: str, checksums: Any) -> HttpStore:
    return S3Store("con", Config(endpoint=endpoint, anonymous=True, checksums=checksums, max_attempts=2))


def _azure(endpoint: str, checksums: Any) -> HttpStore:
    return AzureStore("acct/con", Config(azure_endpoint=endpoint, anonymous=True, checksums=checksums, max_attempts=2))


def _gcs(endpoint: str, checksums: Any) -> HttpStore:
    return GCSStore(BUCKET, Config(gcs_endpoint=endpoint, checksums=checksums, max_attempts=2))


CLOUDS = {
    "s3": Cloud(
        *(WritableS3, "/con/key", _s3),
        lambda data: {"x-amz-checksum-crc32c": _crc("CRC32C", data), "x-amz-checksum-type": "FULL_OBJECT"},
        "x-amz-checksum-mode",
    ),
    "gs": Cloud(ScriptedGCS, "key", _gcs, lambda data: {"x-goog-hash": f"crc32c={_crc('CRC32C', data)}"}, None),
    "az": Cloud(
        *(WritableAzure, "/acct/con/key", _azure),
        lambda data: {"x-ms-content-crc64": base64.b64encode(Checksum("CRC64NVME", data).digest()[::-1]).decode()},
        "x-ms-range-get-content-crc64",
    ),
}
each_cloud = pytest.mark.parametrize("cloud", CLOUDS.values(), ids=CLOUDS)


@pytest.fixture(autouse=True)
def azure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever host is asked is taken for Azure: no other is asked for checksums."""
    monkeypatch.setattr("s3dlio.stores.azure.store.is_azure", lambda endpoint: True)


@pytest.fixture
def amazon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever host is asked is taken for AWS."""
    monkeypatch.setattr("s3dlio.stores.s3.store.route", lambda *given: replace(route(*given), aws=True))


@asynccontextmanager
async def serve(cloud: Cloud, checksums: str) -> AsyncIterator[tuple[FaultServer, HttpStore]]:
    async with serving(cloud.server) as server, cloud.make(server.endpoint, checksums) as store:
        if isinstance(server, ScriptedGCS):
            server.store("key", DATA)
        else:
            server.objects[cloud.path] = DATA
        yield server, store


async def get(store: ObjectStore) -> bytes:
    return await store.get("key")


async def get_again(store: ObjectStore) -> bytes:
    """By an idle connection, the short way."""
    await store.head("key")
    return await store.get("key")


async def fetch(store: ObjectStore) -> bytes:
    await store.fetch("key", sink := BytesSink(), GetOptions())
    return sink.data


async def get_into(store: ObjectStore) -> bytes:
    await store.get_into("key", view := memoryview(bytearray(len(DATA))))
    return bytes(view)


Way = Callable[[ObjectStore], Awaitable[bytes]]


def _in_parts(way: Way) -> Way:
    return lambda store: way(ParallelStore(store, part_size=PART, parts_in_flight=2))


WHOLE: dict[str, Way] = {"get": get, "the short way": get_again, "fetch": fetch, "get_into": get_into}
WHOLE |= {f"{name} in parts": _in_parts(way) for name, way in (("get", get), ("get_into", get_into))}
each_way = pytest.mark.parametrize("way", WHOLE.values(), ids=WHOLE)


async def some(store: ObjectStore) -> bytes:
    return await store.get_range("key", BoundedRange(1, 100))


# off


@each_cloud
@pytest.mark.parametrize("way", [*WHOLE.values(), some], ids=[*WHOLE, "get_range"])
async def test_off_neither_asks_nor_compares(cloud: Cloud, way: Any) -> None:
    async with serve(cloud, "off") as (server, store):
        server.always = Fault(headers=cloud.tells(DATA[::-1]))
        assert await way(store) == (DATA[1:100] if way is some else DATA)
        assert not any(cloud.asks in asked.headers for asked in server.requests)


@each_cloud
async def test_off_sends_none(cloud: Cloud, amazon: None) -> None:
    """Nor is compared what the service says that it received."""
    async with serve(cloud, "off") as (server, store):
        if not isinstance(server, ScriptedGCS):
            server.always = Fault(headers=cloud.tells(b"another") | {"x-amz-checksum-crc64nvme": "AAAAAAAAAAA="})
        await store.put("key", b"content")
        upload = await store.create_upload("key")
        parts = [await store.upload_part(upload, number, b"content") for number in (1, 2)]
        await store.complete_upload(upload, parts)
        assert server.objects[cloud.path] == b"contentcontent"
        said = "".join(f"{name}: {value}\n" for asked in server.requests for name, value in asked.headers.items())
        assert not any(word in said for word in ("checksum", "crc64", "md5"))
        assert not any(b"crc32c" in asked.body for asked in server.requests)


# require


@each_cloud
@each_way
async def test_an_object_of_which_no_checksum_is_told_is_an_error_where_one_is_required(cloud: Cloud, way: Any) -> None:
    async with serve(cloud, "require") as (server, store):
        server.always = Fault(headers=dict.fromkeys(("x-goog-hash", "x-ms-content-crc64")))
        with pytest.raises(ChecksumError, match=r"required.*none.*checksums='when_there'") as caught:
            await way(store)
        assert caught.value.key == "key"
    async with serve(cloud, "when_there") as (server, store):
        server.always = Fault(headers=dict.fromkeys(("x-goog-hash", "x-ms-content-crc64")))
        assert await way(store) == DATA


@each_cloud
async def test_parts_and_empty_objects_are_read_without_one_all_the_same(cloud: Cloud) -> None:
    async with serve(cloud, "require") as (server, store):
        server.always = Fault(headers={"x-goog-hash": None})
        assert await some(store) == DATA[1:100]
        view = memoryview(bytearray(PART))
        await ParallelStore(store, part_size=1024, parts_in_flight=2).get_into("key", view, start=5)
        assert view == DATA[5 : 5 + PART]
        if isinstance(server, ScriptedGCS):
            server.store("key", b"")
        else:
            server.objects[cloud.path] = b""
        assert await get(store) == await fetch(store) == b""
        assert await get(ParallelStore(store, part_size=PART, parts_in_flight=2)) == b""


@each_cloud
@each_way
async def test_an_object_that_has_the_checksum_that_is_told_is_read(
    cloud: Cloud, way: Any, amazon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(cloud, "require") as (server, store):
        monkeypatch.setattr(server, "answer", _telling(server, cloud))
        assert await way(store) == DATA


def _telling(server: FaultServer, cloud: Cloud) -> Any:
    """Each answer with the checksum of its body; and of the object, where the service tells that alone."""
    honest = server.answer

    def answer(asked: Any, fault: Fault) -> Any:
        truth = honest(asked, fault)
        if cloud.asks is None or (asked.method == "HEAD" and cloud is CLOUDS["az"]):
            return truth
        of_range = cloud is CLOUDS["az"]
        if not of_range and "range" in asked.headers:
            return truth
        return replace(truth, headers={**truth.headers, **cloud.tells(truth.body if of_range else DATA)})

    return answer


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ({"x-amz-checksum-crc32": "AAAAAA==-2", "x-amz-checksum-type": "COMPOSITE"}, "crc32: AAAAAA==-2"),
        ({"x-amz-checksum-sha256": "A" * 43 + "="}, "x-amz-checksum-sha256"),
        ({}, "but nothing"),
    ],
)
async def test_the_error_says_what_was_told_instead(told: dict[str, str], shown: str) -> None:
    async with serve(CLOUDS["s3"], "require") as (server, store):
        server.always = Fault(headers=told)
        with pytest.raises(ChecksumError) as caught:
            await store.get("key")
        assert shown in str(caught.value)
        assert (caught.value.operation, caught.value.bucket, caught.value.key) == ("GetObject", "con", "key")


async def test_what_only_a_look_tells_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a server that is not Amazon's, too; and of another version it says nothing."""
    cloud = CLOUDS["s3"]
    async with serve(cloud, "require") as (server, store):
        honest, etag = server.answer, '"newer"'

        def answer(asked: Any, fault: Fault) -> Any:
            truth = honest(asked, fault)
            told = cloud.tells(DATA) | ({"etag": etag} if etag else {})
            return replace(truth, headers=truth.headers | told) if asked.method == "HEAD" else truth

        monkeypatch.setattr(server, "answer", answer)
        for way in (fetch, _in_parts(get)):
            with pytest.raises(ChecksumError, match="required"):
                await way(store)
        etag = ""
        assert await fetch(store) == await _in_parts(get)(store) == DATA
        server.objects[cloud.path] = FLIPPED
        for way in (fetch, _in_parts(get)):
            with pytest.raises(ChecksumError, match="twice"):
                await way(store)


async def test_files_and_memory_have_none_and_need_none(tmp_path: Path) -> None:
    for uri in (f"file://{tmp_path}/", f"direct://{tmp_path}/", "memory://bucket"):
        async with open_store(uri, checksums="require", part_size=PART) as store:
            await store.put("key", DATA)
            assert await store.get("key") == DATA


# Writes

SENT = {
    "s3": ("x-amz-checksum-crc64nvme", _crc("CRC64NVME", b"content")),
    "az": ("x-ms-content-crc64", CLOUDS["az"].tells(b"content")["x-ms-content-crc64"]),
}


@pytest.mark.parametrize("name", SENT)
@pytest.mark.parametrize("checksums", ["require", "when_there"])
async def test_writes_carry_one_to_any_server_where_it_is_required(name: str, checksums: str) -> None:
    """And to servers that are not Amazon's only then."""
    header, value = SENT[name]
    async with serve(CLOUDS[name], checksums) as (server, store):
        await store.put("key", b"content")
        upload = await store.create_upload("key")
        await store.complete_upload(upload, [await store.upload_part(upload, 1, b"content")])
        sent = [asked.headers.get(header) for asked in server.requests if asked.body == b"content"]
        assert sent == [value if checksums == "require" else None] * 2
        assert server.objects[CLOUDS[name].path] == b"content"


async def test_google_is_sent_one_unless_that_is_off() -> None:
    for checksums in ("require", "when_there", "off"):
        async with serve(CLOUDS["gs"], checksums) as (server, store):
            await store.put("key", b"content")
            assert (_crc("CRC32C", b"content").encode() in server.requests[-1].body) == (checksums != "off")


# AWS's own settings


@pytest.mark.parametrize("by", ["environment", "profile"])
@pytest.mark.parametrize("checksums", ["require", "when_there", "off"])
async def test_when_required_means_off_for_a_direction(
    by: str, checksums: str, amazon: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It loosens what is compared when it is there, and nothing else."""
    names = {"reads": "response_checksum_validation", "writes": "request_checksum_calculation"}
    say = partial(_say, by, monkeypatch, tmp_path)
    for direction, name in names.items():
        say(name, "WHEN_REQUIRED")
        async with serve(CLOUDS["s3"], checksums) as (server, store):
            server.always = Fault(headers=CLOUDS["s3"].tells(DATA))
            await fetch(store)
            server.always = Fault()
            await store.put("key", b"content")
            read, written = (server.requests[0].headers, server.requests[-1].headers)
        loosened = direction if checksums == "when_there" else None
        assert ("x-amz-checksum-mode" in read) == (checksums != "off" and loosened != "reads")
        assert ("x-amz-checksum-crc64nvme" in written) == (checksums != "off" and loosened != "writes")


def _say(by: str, monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, value: str) -> None:
    """Have the environment or the profile say that, and nothing else."""
    for each in ("RESPONSE_CHECKSUM_VALIDATION", "REQUEST_CHECKSUM_CALCULATION"):
        monkeypatch.delenv(f"AWS_{each}", raising=False)
    if by == "environment":
        monkeypatch.setenv(f"AWS_{name.upper()}", value)
        return
    (folder / "config").write_text(f"[default]\n{name} = {value}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))


async def test_the_environment_is_ahead_of_the_profile_and_nonsense_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _say("profile", monkeypatch, tmp_path, "response_checksum_validation", "when_required")
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_supported")
    async with serve(CLOUDS["s3"], "when_there") as (server, store):
        await store.get("key")
        assert server.requests[-1].headers["x-amz-checksum-mode"] == "ENABLED"
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "sometimes")
    async with serve(CLOUDS["s3"], "when_there") as (_, store):
        with pytest.raises(ConfigError, match="response_checksum_validation must be when_supported or when_required"):
            await store.get("key")
