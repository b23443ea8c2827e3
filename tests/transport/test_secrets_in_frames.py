"""No secret in what a crash reporter sends: the error, all it came from, and every local variable on the way."""

from __future__ import annotations

import base64
import re
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trustme
from trio.testing import MockClock

from s3dlio import parts
from s3dlio.auth.azure import AzureAccount
from s3dlio.auth.bearer import Token
from s3dlio.auth.sigv4 import Credentials
from s3dlio.config import Config
from s3dlio.errors import StoreError
from s3dlio.model import BoundedRange, GetOptions, Part, PutOptions, Upload
from s3dlio.stores.azure.store import AzureStore
from s3dlio.stores.gcs import store as gcs_store
from s3dlio.stores.gcs.store import GCSStore
from s3dlio.stores.http import HttpStore
from s3dlio.stores.s3.store import S3Store
from s3dlio.stores.store import BytesSink
from s3dlio.transfer import ParallelStore

from ..canary import CANARY
from ..servers.faults import NOTHING, Fault, error_body, fault_server
from .test_tls import server_context

MiB = 1 << 20
RESUMABLE = 3 * MiB
KEY = f"key-{CANARY}".encode()
CUSTOMER_KEY = 2 * CANARY.encode()
ENCODED = "|".join(re.escape(base64.b64encode(key).decode()) for key in (KEY, CUSTOMER_KEY))
SIGNATURES = re.compile(f"{CANARY}|{ENCODED}|Signature=|SharedKey |Bearer |Basic |sig=")
"""All that would let a reader act: secrets, and what was made of them."""


class Keys:
    """Credentials of S3."""

    async def get(self) -> Credentials:
        """See :class:`s3dlio.auth.sigv4.CredentialsProvider`."""
        return Credentials(f"AKIA{CANARY}", CANARY, f"token-{CANARY}")

    async def refresh(self, rejected: Credentials) -> bool:
        """There are no others."""
        return False


class Bearer:
    """A token of Google's."""

    async def get(self) -> Token:
        """See :class:`s3dlio.auth.bearer.TokenProvider`."""
        return Token({"authorization": f"Bearer {CANARY}"})

    async def refresh(self, rejected: Token) -> bool:
        """There are no others."""
        return False


def azure(account: AzureAccount) -> Callable[[str, Config], HttpStore]:
    return lambda endpoint, config: AzureStore("account/bucket", config, replace(account, endpoint=endpoint))


def s3(endpoint: str, config: Config) -> S3Store:
    """With a key to encrypt by, too."""
    key = Path(config.ca_bundle or "").with_name("key")
    key.write_bytes(CUSTOMER_KEY)
    return S3Store("bucket", replace(config, endpoint=endpoint, sse_c_key_file=str(key)), Keys())


CLOUDS: dict[str, Callable[[str, Config], HttpStore]] = {
    "s3": s3,
    "azure key": azure(AzureAccount("account", key=KEY)),
    "azure sas": azure(AzureAccount("account", sas=f"sv=2021&sig={CANARY}")),
    "azure bearer": azure(AzureAccount("account")),
    "gcs": lambda endpoint, config: GCSStore("bucket", replace(config, gcs_endpoint=endpoint), Bearer()),
}

UPLOAD = Upload("new", "upload", PutOptions())
VERBS: dict[str, Callable[[HttpStore], Awaitable[object]]] = {
    "get": lambda store: store.get("key"),
    "range": lambda store: store.get_range("key", BoundedRange(0, 5)),
    "in parts": lambda store: ParallelStore(store, part_size=10, parts_in_flight=2).get("key"),
    "head": lambda store: store.head("key"),
    "exists": lambda store: store.exists("key"),
    "list": lambda store: store.list_page(),
    "put": lambda store: store.put("new", b"small"),
    "create": lambda store: store.put("new", memoryview(bytes(100_000)), PutOptions(if_none_match=True)),
    "put much": lambda store: store.put("new", memoryview(bytes(RESUMABLE - 1))),
    "put more": lambda store: store.put("new", memoryview(bytes(RESUMABLE + 1))),
    "write": lambda store: write(ParallelStore(store, part_size=MiB, parts_in_flight=2)),
    "delete": lambda store: store.delete("new"),
    "delete many": lambda store: store.delete_many(["a", "b"]),
    "copy": lambda store: store.copy("old", "new"),
    "create upload": lambda store: store.create_upload("new"),
    "part": lambda store: part(store),
    "complete": lambda store: store.complete_upload(UPLOAD, [Part(1, '"1"', 5)]),
    "abort": lambda store: store.abort_upload(UPLOAD),
    "a header that cannot be sent": lambda store: store.fetch(
        "key", BytesSink(), GetOptions(if_match="a\nb", if_none_match="\N{SNOWMAN}")
    ),
    "a condition that cannot be sent": lambda store: store.put("new", b"", PutOptions(if_match="\N{SNOWMAN}")),
}


async def write(store: ParallelStore) -> None:
    async with store.open_writer("new") as writer:
        await writer.write(memoryview(bytes(5 * MiB // 2)))


async def part(store: HttpStore) -> None:
    upload = UPLOAD if isinstance(store, S3Store) else await store.create_upload("new")
    await store.upload_part(upload, 1, memoryview(bytes(2 * MiB)))


ECHO = error_body("SignatureDoesNotMatch", Message="no", StringToSign=CANARY, AuthenticationErrorDetail=CANARY)
FAULTS = {
    "reset": Fault(cut=NOTHING, reset=True),
    "reset before the body": Fault(raw=b"", early=True, reset=True),
    "reset in mid-body": Fault(cut=1, reset=True),
    "closed": Fault(cut=NOTHING),
    "silence": Fault(stall=NOTHING),
    "refused": Fault(403, body=ECHO),
    "refused early": Fault(403, body=ECHO, early=True),
    "failing": Fault(500, {"authorization": CANARY}, ECHO),
    "no http": Fault(raw=b"hello"),
    "no success": Fault(299, {"authorization": CANARY}, ECHO),
}


def full_story(error: BaseException) -> str:
    """As a crash reporter tells it. The frames of tests and their servers, which know the secret, are left out."""
    pending: list[traceback.TracebackException | None] = [
        traceback.TracebackException.from_exception(error, capture_locals=True)
    ]
    told = []
    while pending:
        if (link := pending.pop()) is not None:
            ours = [frame for frame in link.stack if "/tests/" not in frame.filename]
            link.stack = traceback.StackSummary.from_list(ours)
            told.append("".join(link.format(chain=False)))
            pending += [link.__cause__, link.__context__, *(link.exceptions or ())]
    return "".join(told)


async def told_secrets(store: HttpStore) -> dict[str, list[str]]:
    """The secrets in what is told of the errors of all verbs. Reading fails in any case; not every write does."""
    told: dict[str, list[str]] = {}

    async def tell(verb: str) -> None:
        try:
            await VERBS[verb](store)
        except Exception as error:  # whatever a user would catch
            told[verb] = SIGNATURES.findall(full_story(error))

    async with trio.open_nursery() as nursery:
        for verb in VERBS:
            nursery.start_soon(tell, verb)
    assert "get" in told
    return {verb: secrets for verb, secrets in told.items() if secrets}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes of few bytes are made as those of many are, in parts and resumable."""
    monkeypatch.setattr(parts, "MIN_PART", MiB)
    monkeypatch.setattr(gcs_store, "RESUMABLE_FROM", RESUMABLE)


@pytest.fixture
def bearer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entra ID gives a token at once."""
    token = Token({"authorization": f"Bearer {CANARY}"})
    monkeypatch.setattr("s3dlio.auth.azure.entra_loader", lambda *_: lambda: token)


@pytest.fixture
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, str]:
    """An authority, and where clients find it."""
    authority, path = trustme.CA(), tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return authority, str(path)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("cloud", CLOUDS)
async def test_faults(clock: MockClock, bearer: None, tls: tuple[trustme.CA, str], cloud: str, fault: str) -> None:
    authority, bundle = tls
    secure = server_context(authority) if cloud in ("gcs", "azure bearer", "azure sas") else None
    async with fault_server(tls=secure) as server:
        server.always = FAULTS[fault]
        config = Config(ca_bundle=bundle, max_attempts=2, stall_timeout=5)
        async with CLOUDS[cloud](server.endpoint, config) as store:
            assert await told_secrets(store) == {}


@pytest.mark.parametrize("cloud", CLOUDS)
async def test_connections_that_are_not_made(
    clock: MockClock, bearer: None, tls: tuple[trustme.CA, str], cloud: str
) -> None:
    """Nobody listens; or who listens cannot prove its name."""
    authority, bundle = tls
    config = Config(ca_bundle=bundle, max_attempts=2)
    async with fault_server(tls=server_context(authority, "example.com")) as server:
        for endpoint in (server.endpoint, "https://127.0.0.1:1"):
            async with CLOUDS[cloud](endpoint, config) as store:
                assert await told_secrets(store) == {}


@pytest.mark.parametrize("cloud", CLOUDS)
async def test_what_a_sink_or_a_deadline_raises(
    clock: MockClock, bearer: None, tls: tuple[trustme.CA, str], cloud: str
) -> None:
    """Errors that are not ours pass through the same frames."""
    authority, bundle = tls

    def fail(_: object) -> memoryview:
        raise KeyError

    async with fault_server(tls=server_context(authority)) as server:
        server.always = Fault(200, {"etag": '"1"', "x-goog-generation": "1"}, b"x")
        async with CLOUDS[cloud](server.endpoint, Config(ca_bundle=bundle)) as store:
            with pytest.raises(KeyError) as failed:
                await store.fetch("key", fail)
            server.always = Fault(stall=NOTHING)
            with pytest.raises(trio.TooSlowError) as late:
                with trio.fail_after(1):
                    await store.put("new", memoryview(bytes(3 * MiB)))
    assert not SIGNATURES.search(full_story(failed.value))
    assert not SIGNATURES.search(full_story(late.value))


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_resumable_upload(clock: MockClock, tls: tuple[trustme.CA, str], fault: str) -> None:
    """Who knows its address may write the object."""
    authority, bundle = tls
    async with fault_server(tls=server_context(authority)) as server:
        server.script += [Fault(200, {"location": f"{server.endpoint}/upload?upload_id={CANARY}"}, b"")]
        server.always = FAULTS[fault]
        config = Config(ca_bundle=bundle, max_attempts=2, stall_timeout=5)
        async with CLOUDS["gcs"](server.endpoint, config) as store:
            with pytest.raises(StoreError) as caught:
                await store.put("new", memoryview(bytes(RESUMABLE + 1)))
    assert len(server.requests) > 1
    assert not SIGNATURES.search(full_story(caught.value))


def test_the_search_finds_what_is_there() -> None:
    leaky: dict[str, Callable[[str], None]] = {}
    exec(compile("def leak(secret): raise LookupError", "elsewhere.py", "exec"), leaky)
    with pytest.raises(LookupError) as caught:
        leaky["leak"](CANARY)
    assert SIGNATURES.search(full_story(caught.value))
