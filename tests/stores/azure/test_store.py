"""What Azure does otherwise than S3, on Azurite; and what one asks for in vain."""

from __future__ import annotations

import base64
import logging
import pickle
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from s3dlio.config import Config
from s3dlio.errors import (
    BucketNotFoundError,
    NotFoundError,
    ObjectChangedError,
    PermissionDeniedError,
    StoreError,
    UploadNotFoundError,
)
from s3dlio.model import BoundedRange, GetOptions, PutOptions, SuffixRange
from s3dlio.stores.azure.store import AzureStore
from s3dlio.stores.store import BytesSink
from s3dlio.transfer import ParallelStore

from ...servers.azurite import Azurite
from ..conformance import listed

CANARY = base64.b64encode(b"a canary that nobody may see").decode()

OPERATIONS: dict[str, Callable[[AzureStore], Awaitable[object]]] = {
    "GetBlob": lambda store: store.get("key"),
    "GetBlobProperties": lambda store: store.head("key"),
    "PutBlob": lambda store: store.put("key", b"content"),
    "ListBlobs": lambda store: store.list_page(),
    "DeleteBlob": lambda store: store.delete("key"),
    "CopyBlob": lambda store: store.copy("key", "target"),
}
each_operation = pytest.mark.parametrize("operation", OPERATIONS)


@pytest.fixture
async def store(container: str) -> AsyncIterator[AzureStore]:
    async with AzureStore(container, Config()) as store:
        yield store


async def refused(store: AzureStore, operation: str) -> StoreError:
    async with store:
        with pytest.raises(StoreError) as caught:
            await OPERATIONS[operation](store)
    return caught.value


def all_that_shows(error: BaseException) -> str:
    return f"{error} {error!r} {error.__cause__!r} {pickle.dumps(error)!r}"


# Spellings


async def test_every_spelling_leads_to_the_same_blob(
    container: str, azure_environment: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = azure_environment.account
    async with AzureStore(container, Config()) as store:
        assert store.uri == f"az://{container}"
        await store.put("key", b"content")
    spelling = f"{container}@{account}.dfs.core.windows.net"
    async with AzureStore(spelling, Config()) as store:
        assert (store.uri, await store.get("key")) == (f"abfss://{spelling}", b"content")
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME")
    monkeypatch.setenv("AZURE_BLOB_ENDPOINT_URL", azure_environment.endpoint.removesuffix(f"/{account}"))
    async with AzureStore(f"{account}/{container}", Config()) as store:
        assert (store.uri, await store.get("key")) == (f"az://{account}/{container}", b"content")


async def test_a_connection_string_is_enough(
    container: str, azure_environment: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = azure_environment
    for name in server.environment():
        monkeypatch.delenv(name)
    text = f"AccountName={server.account};AccountKey={server.key};BlobEndpoint={server.endpoint};"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    async with AzureStore(container, Config()) as store:
        await store.put("key", b"content")
        assert await store.get("key") == b"content"


async def test_microsofts_client_agrees(store: AzureStore, azure_environment: Azurite) -> None:
    await store.put("ours", b"content", PutOptions("application/x-test", {"name": "value"}))
    with azure_environment.container(store.bucket) as client:
        blob = client.get_blob_client("ours")
        properties = blob.get_blob_properties()
        assert blob.download_blob().readall() == b"content"
        assert (properties.content_settings.content_type, properties.metadata) == (
            "application/x-test",
            {"name": "value"},
        )
        client.upload_blob("theirs", b"their content", metadata={"name": "theirs"})
    assert await store.get("theirs") == b"their content"
    assert (await store.head("theirs")).metadata == {"name": "theirs"}
    assert [meta.key for meta in await listed(store)] == ["ours", "theirs"]


# Blocks


async def test_an_aborted_upload_leaves_blocks_that_nobody_sees(store: AzureStore, azure_environment: Azurite) -> None:
    upload = await store.create_upload("key")
    part = await store.upload_part(upload, 1, b"content")
    await store.abort_upload(upload)
    assert not await store.exists("key")
    assert await listed(store) == []
    with azure_environment.container(store.bucket) as client:
        _, uncommitted = client.get_blob_client("key").get_block_list("all")
        assert [(block.id, block.size) for block in uncommitted] == [(part.etag, 7)]
        another = await store.create_upload("key")
        await store.complete_upload(another, [await store.upload_part(another, 1, b"another")])
        _, uncommitted = client.get_blob_client("key").get_block_list("all")
        assert uncommitted == []


async def test_an_upload_belongs_to_its_store(store: AzureStore) -> None:
    upload = await store.create_upload("key")
    async with AzureStore(store.bucket, Config()) as another:
        with pytest.raises(UploadNotFoundError, match="another store"):
            await another.upload_part(upload, 1, b"content")


async def test_completing_again_makes_the_same_blob(store: AzureStore) -> None:
    """As when the answer to the first attempt was lost, and the service sends a second one."""
    upload = await store.create_upload("key")
    parts = [await store.upload_part(upload, number, b"part") for number in (1, 2)]
    await store.complete_upload(upload, parts)
    store._uploads.add(upload.id)
    await store.complete_upload(upload, parts)
    assert await store.get("key") == b"partpart"


async def test_a_failed_write_in_parts_makes_nothing(store: AzureStore) -> None:
    parallel = ParallelStore(store, part_size=5 << 20, parts_in_flight=4)

    async def write() -> None:
        async with parallel.open_writer("key") as writer:
            await writer.write(bytes(6 << 20))
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        await write()
    assert not await store.exists("key")
    assert not store._uploads


# Ranges


async def test_a_suffix_is_of_one_version(store: AzureStore) -> None:
    etag = (await store.put("key", b"0123456789")).etag
    assert await store.get_range("key", SuffixRange(3), if_match=etag) == b"789"
    await store.put("key", b"abc")
    with pytest.raises(ObjectChangedError):
        await store.get_range("key", SuffixRange(3), if_match=etag)


async def test_a_condition_is_signed_with_a_range(store: AzureStore) -> None:
    etag = (await store.put("key", b"0123456789")).etag
    sink = BytesSink()
    await store.fetch("key", sink, GetOptions(byte_range=BoundedRange(2, 4), if_match=etag, if_none_match='"other"'))
    assert sink.data == b"23"


# In vain


@each_operation
async def test_a_wrong_key(container: str, monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", CANARY)
    error = await refused(AzureStore(container, Config()), operation)
    assert isinstance(error, PermissionDeniedError)
    assert (error.operation, error.bucket, error.status) == (operation, container, 403)
    assert error.code == "AuthorizationFailure"
    assert error.request_id
    assert error.endpoint is not None
    assert error.endpoint.startswith("http://127.0.0.1:")
    assert CANARY not in all_that_shows(error)


@each_operation
async def test_an_absent_container(azure_environment: Azurite, operation: str) -> None:
    error = await refused(AzureStore("absent", Config()), operation)
    assert isinstance(error, BucketNotFoundError)
    assert (error.operation, error.bucket, error.code) == (operation, "absent", "ContainerNotFound")


@each_operation
async def test_an_unknown_account(azure_environment: Azurite, monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    endpoint = azure_environment.endpoint.replace(azure_environment.account, "nobody")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "nobody")
    monkeypatch.setenv("AZURE_BLOB_ENDPOINT_URL", endpoint)
    error = await refused(AzureStore("container", Config()), operation)
    assert isinstance(error, NotFoundError | PermissionDeniedError)
    assert (error.operation, error.endpoint) == (operation, endpoint)


@pytest.fixture
def use_sas(azure_environment: Azurite, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
    return lambda token: monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", token)


def signature(token: str) -> str:
    return token.partition("sig=")[2].partition("&")[0]


@each_operation
async def test_an_expired_sas(
    container: str, azure_environment: Azurite, use_sas: Callable[[str], None], operation: str
) -> None:
    token = azure_environment.sas(container, hours=-1)
    use_sas(token)
    error = await refused(AzureStore(container, Config()), operation)
    assert isinstance(error, PermissionDeniedError)
    assert "The SAS token expired at " in str(error)
    assert (error.operation, error.status, error.bucket) == (operation, 403, container)
    assert signature(token) not in all_that_shows(error)


async def test_a_sas_that_may_not(container: str, azure_environment: Azurite, use_sas: Callable[[str], None]) -> None:
    use_sas(token := azure_environment.sas(container, "r"))
    error = await refused(AzureStore(container, Config()), "PutBlob")
    assert isinstance(error, PermissionDeniedError)
    assert "expired" not in str(error)
    assert signature(token) not in all_that_shows(error)


async def test_a_sas_that_was_changed(
    container: str, azure_environment: Azurite, use_sas: Callable[[str], None]
) -> None:
    use_sas(azure_environment.sas(container, "r").replace("sp=r", "sp=rw"))
    assert isinstance(await refused(AzureStore(container, Config()), "PutBlob"), PermissionDeniedError)


async def test_anonymous_access(azure_environment: Azurite) -> None:
    name = f"public-{uuid.uuid4()}"
    azure_environment.create_container(name, public=True)
    async with AzureStore(name, Config()) as store:
        await store.put("key", b"content")
    async with AzureStore(name, Config(anonymous=True)) as store:
        assert await store.get("key") == b"content"
        assert [meta.key for meta in await listed(store)] == ["key"]
    assert isinstance(await refused(AzureStore(name, Config(anonymous=True)), "PutBlob"), PermissionDeniedError)


async def test_anonymous_access_to_what_is_private(container: str) -> None:
    error = await refused(AzureStore(container, Config(anonymous=True)), "ListBlobs")
    assert isinstance(error, PermissionDeniedError | NotFoundError)


async def test_nothing_secret_is_logged(
    container: str, azure_environment: Azurite, use_sas: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    use_sas(token := azure_environment.sas(container))
    with caplog.at_level(logging.DEBUG):
        async with AzureStore(container, Config()) as store:
            await store.put("key", b"content")
            await store.copy("key", "copy")
            with pytest.raises(NotFoundError):
                await store.get("absent")
            shown = f"{store!r} {store.uri} {vars(store)!r}"
    assert signature(token) not in shown
    assert signature(token) not in caplog.text
