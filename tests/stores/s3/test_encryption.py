"""Encryption where objects are kept: what requests say of it, and that the customer's key is told to nobody else."""

from __future__ import annotations

import base64
import hashlib
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from s3dlio.blocking.store import BlockingStore
from s3dlio.compat.s3torchconnector import S3Checkpoint
from s3dlio.config import Config, MiB
from s3dlio.errors import ConfigError, StoreError
from s3dlio.model import BoundedRange, GetOptions, PutOptions
from s3dlio.stores.s3 import copying
from s3dlio.stores.s3.encryption import customer_key, encryption_headers
from s3dlio.stores.s3.store import S3Store
from s3dlio.stores.store import BytesSink
from s3dlio.transfer import ParallelStore
from s3dlio.urls import Uri

from ...servers.clouds import WritableS3, serving
from ...servers.faults import Asked, Fault, Truth
from ...servers.seaweedfs import SeaweedFS

KEY = b"0123456789abcdefghijklmnopqrstuv"
ENCODED = base64.b64encode(KEY).decode()
DIGEST = base64.b64encode(hashlib.md5(KEY, usedforsecurity=False).digest()).decode()
OWN = "x-amz-server-side-encryption-customer"
SOURCE = "x-amz-copy-source-server-side-encryption-customer"


def naming(prefix: str) -> dict[str, str]:
    return {f"{prefix}-algorithm": "AES256", f"{prefix}-key": ENCODED, f"{prefix}-key-md5": DIGEST}


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    path = tmp_path / "key"
    path.write_bytes(KEY)
    return str(path)


class NamingS3(WritableS3):
    """By operation, what was said of encryption."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self.told: dict[str, dict[str, str]] = {}

    def answer(self, asked: Asked, fault: Fault) -> Truth:
        operation = f"{asked.method} {'copy ' * ('x-amz-copy-source' in asked.headers)}{asked.target.partition('?')[2]}"
        said = {name: value for name, value in asked.headers.items() if "server-side-encryption" in name}
        self.told[operation.strip()] = said
        assert set(said) <= {*asked.headers["authorization"].partition("SignedHeaders=")[2].split(",")[0].split(";")}
        if "x-amz-copy-source-range" in asked.headers:
            return Truth(200, {}, b"<CopyPartResult><ETag>1</ETag></CopyPartResult>")
        return super().answer(asked, fault)


async def every_operation(settings: Config) -> dict[str, dict[str, str]]:
    """What each operation of a store with such settings says of encryption."""
    async with serving(NamingS3) as server, S3Store("bucket", replace(settings, endpoint=server.endpoint)) as store:
        await store.put("key", b"content")
        await store.get("key")
        await store.get("key")  # on a connection that is there: without ceremony
        await store.fetch("key", BytesSink(), GetOptions(BoundedRange(0, 5)))
        await store.head("key")
        await store.copy("key", "copy")
        upload = await store.create_upload("key")
        await store.complete_upload(upload, [await store.upload_part(upload, 1, b"content")])
        begun = await store.begin_copy("key", "large")
        assert begun is not None
        await store.copy_part(begun, 1, BoundedRange(0, 5))
        await store.abort_upload(begun.upload)
        await store.list_page()
        await store.delete("key")
        await store.delete_many(["copy"])
        return server.told


BEGINNINGS = {"PUT", "PUT copy", "POST uploads="}
WITH_KEY = {*BEGINNINGS, "GET", "HEAD", "PUT partNumber=1&uploadId=upload-1", "POST uploadId=upload-1"}
WITH_BOTH = {"PUT copy", "PUT copy partNumber=1&uploadId=upload-2"}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "MAX_COPY", 5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Config(), {}),
        (Config(sse="AES256"), {"x-amz-server-side-encryption": "AES256"}),
        (
            Config(sse_kms_key_id="key"),
            {"x-amz-server-side-encryption": "aws:kms", "x-amz-server-side-encryption-aws-kms-key-id": "key"},
        ),
        (Config(sse="aws:kms"), {"x-amz-server-side-encryption": "aws:kms"}),
        (
            Config(sse="aws:kms:dsse", sse_kms_key_id="arn:aws:kms:us-east-1:1:key/2"),
            {
                "x-amz-server-side-encryption": "aws:kms:dsse",
                "x-amz-server-side-encryption-aws-kms-key-id": "arn:aws:kms:us-east-1:1:key/2",
            },
        ),
    ],
)
async def test_keys_of_amazons_are_named_where_an_object_begins(settings: Config, expected: dict[str, str]) -> None:
    told = await every_operation(settings)
    assert {operation for operation, said in told.items() if said} == (BEGINNINGS if expected else set())
    assert all(said in ({}, expected) for said in told.values())


async def test_a_key_of_the_customers_goes_with_all_that_is_about_the_content(key_file: str) -> None:
    told = await every_operation(Config(sse_c_key_file=key_file))
    assert {operation for operation, said in told.items() if said} == WITH_KEY | WITH_BOTH
    for operation in WITH_KEY - WITH_BOTH:
        assert told[operation] == naming(OWN), operation
    for operation in WITH_BOTH:
        assert told[operation] == naming(OWN) | naming(SOURCE), operation


async def test_a_key_is_not_sent_where_it_can_be_read_on_the_way(key_file: str) -> None:
    config = Config(endpoint="http://storage.example:9000", sse_c_key_file=key_file)
    async with S3Store("bucket", config) as store:
        for work in (store.put("key", b""), store.get("key"), store.copy("a", "b"), store.create_upload("key")):
            with pytest.raises(ConfigError, match="every"):
                await work


async def test_a_key_is_not_sent_to_a_proxy_in_clear(key_file: str) -> None:
    config = Config(endpoint="http://127.0.0.1:1", proxy="http://127.0.0.1:2", sse_c_key_file=key_file)
    async with S3Store("bucket", config) as store:
        with pytest.raises(ConfigError, match="on the way"):
            await store.get("key")


@pytest.mark.parametrize("content", [KEY, ENCODED.encode(), f"{ENCODED}\n".encode()])
def test_a_key_is_read_as_it_is_or_in_base64(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    assert customer_key(str(tmp_path / "key")) == ENCODED


@pytest.mark.parametrize("content", [b"", KEY[1:], KEY + b"\n\n\n", base64.b64encode(KEY[1:]), b"\xff" * 44, b"=" * 44])
def test_what_is_no_key_is_refused_and_not_shown(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ConfigError, match="does not hold a key") as caught:
        customer_key(str(tmp_path / "key"))
    assert caught.value.__context__ is None
    shown, frame = str(caught.value), caught.traceback[-1].frame
    assert set(frame.f_locals) == {"path", "key"}
    assert not content.strip() or content.strip().decode("latin-1") not in shown


def test_a_key_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="No such file"):
        customer_key("/absent/key")


def test_settings_hold_no_key(key_file: str) -> None:
    config = Config(sse_c_key_file=key_file)
    shown = repr(config).encode() + pickle.dumps(config) + repr(encryption_headers(config)).encode()
    assert KEY not in shown
    assert ENCODED.encode() not in shown
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize(
    "settings",
    [
        {"sse": "aws:kms", "sse_c_key_file": "key"},
        {"sse_kms_key_id": "key", "sse_c_key_file": "key"},
        {"sse": "AES256", "sse_kms_key_id": "key"},
        {"sse": "AES128"},
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="sse"):
        Config(**settings)  # type: ignore[arg-type]


# A real server


@pytest.fixture
def encrypted(s3_environment: SeaweedFS, key_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every store encrypts with the customer's key."""
    monkeypatch.delenv("AWS_SESSION_TOKEN")
    monkeypatch.setenv("S3DLIO_SSE_C_KEY_FILE", key_file)


async def test_a_real_server_encrypts_with_the_key(encrypted: None, bucket: str) -> None:
    data = bytes(range(256)) * (11 * MiB // 256)
    async with (
        ParallelStore(S3Store(bucket, Config()), part_size=5 * MiB, parts_in_flight=2) as store,
        S3Store(bucket, Config(sse_c_key_file="")) as keyless,
    ):
        for key, content in (("small", b"content"), ("large", data)):
            await store.put(key, content)
            assert await store.get(key) == content
            assert (await store.head(key)).size == len(content)
            for work in (keyless.get(key), keyless.head(key)):
                with pytest.raises(StoreError) as refused:
                    await work
                assert refused.value.status == 400
        assert await store.get_range("large", BoundedRange(1000, 2000)) == data[1000:2000]
        await store.inner.copy("small", "copy")
        assert await store.get("copy") == b"content"


def test_every_face_encrypts_with_the_key(encrypted: None, bucket: str) -> None:
    blocking, keyless = (
        BlockingStore(Uri("s3", bucket, ""), config) for config in (Config(), Config(sse_c_key_file=""))
    )
    blocking.put("blocking", b"content")
    assert blocking.get("blocking") == b"content"
    checkpoint = S3Checkpoint("us-east-1")
    with checkpoint.writer(f"s3://{bucket}/checkpoint") as writer:
        writer.write(b"content")
    assert checkpoint.reader(f"s3://{bucket}/checkpoint").read() == b"content"
    for key in ("blocking", "checkpoint"):
        with pytest.raises(StoreError):
            keyless.get(key)


async def test_a_real_server_encrypts_with_keys_of_its_own(
    s3_environment: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_SESSION_TOKEN")
    async with S3Store(bucket, Config(sse="AES256")) as store:
        await store.put("key", b"content", PutOptions("text/plain"))
        answer = await store._send(store._request("HeadObject", "HEAD", "key"))
        assert answer.headers["x-amz-server-side-encryption"] == "AES256"
        assert await store.get("key") == b"content"
