"""The verbs for asyncio: what they give, how they fail, and that a cancelled one leaves nothing."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio.testing

import s3dlio
from s3dlio import aio, blocking
from s3dlio.blocking.portal import CancelledError, Interruption, portal

from .servers.clouds import WritableS3, on_portal, serving
from .servers.faults import NOTHING, Fault, FaultServer

ROOT = "memory://aio"


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    async def timed() -> Any:
        async with asyncio.timeout(60):
            return await main()

    return asyncio.run(timed())


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    yield
    s3dlio.delete_many(s3dlio.list(f"{ROOT}/").uris)


def test_every_verb_is_there_with_its_signature() -> None:
    verbs = {name for name in (*blocking.__all__, "list") if name.islower()} - {"stats"}
    assert {*aio.__all__, "list"} == verbs
    for name in verbs:
        assert inspect.signature(getattr(aio, name)) == inspect.signature(getattr(blocking, name))


def test_objects(tmp_path: Path) -> None:
    async def main() -> None:
        await aio.put(f"{ROOT}/a", "hello")
        assert await aio.get(f"{ROOT}/a", 1, 3) == b"el"
        assert (await aio.stat(f"{ROOT}/a")).size == 5
        array = np.zeros(5, dtype="u1")
        await aio.get_into(f"{ROOT}/a", array)
        assert bytes(array) == b"hello"
        await aio.copy(f"{ROOT}/a", f"{ROOT}/b")
        await aio.download(f"{ROOT}/b", tmp_path / "b", progress=False)
        assert (tmp_path / "b").read_bytes() == b"hello"
        await aio.delete(f"{ROOT}/b")
        assert not await aio.exists(f"{ROOT}/b")

    run(main)


def test_many_at_once_and_listings() -> None:
    async def main() -> None:
        await asyncio.gather(*(aio.put(f"{ROOT}/many/{number:03}", f"{number}") for number in range(150)))
        assert [entry.key async for entry in aio.list(f"{ROOT}/many/")] == [f"many/{n:03}" for n in range(150)]
        assert len([entry async for entry in aio.glob(f"{ROOT}/many/0*")]) == 100
        assert [folder.uri async for folder in aio.walk(ROOT)] == [f"{ROOT}/", f"{ROOT}/many/"]
        found = await aio.get_many([f"{ROOT}/many/{number:03}" for number in range(150)], progress=False)
        assert [content for _, content in found] == [b"%d" % number for number in range(150)]

    run(main)


def test_errors_are_those_of_the_verbs() -> None:
    async def main() -> None:
        with pytest.raises(s3dlio.NotFoundError) as caught:
            await aio.get(f"{ROOT}/absent")
        assert caught.value.key == "absent"
        with pytest.raises(s3dlio.BulkError):
            await aio.get_many([f"{ROOT}/absent"], progress=False)
        with pytest.raises(s3dlio.InvalidUriError):
            [entry async for entry in aio.list("nowhere")]

    run(main)


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """A server on the portal's loop that takes requests and never answers."""
    with on_portal(serving(WritableS3)) as server:
        server.always = Fault(stall=NOTHING)
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        monkeypatch.setenv("S3DLIO_ANONYMOUS", "1")
        yield server


async def asked(server: FaultServer, times: int) -> None:
    """Wait until the server has been asked so often."""

    async def wait() -> None:
        while len(server.requests) < times:
            await trio.testing.wait_all_tasks_blocked(0.001)

    await asyncio.to_thread(portal().call, wait)


CALLS: dict[str, Callable[[], Awaitable[Any]]] = {
    "get": lambda: aio.get("s3://bucket/key"),
    "put": lambda: aio.put("s3://bucket/key", b"content"),
    "get_many": lambda: aio.get_many([f"s3://bucket/{number}" for number in range(200)], progress=False),
    "sync": lambda: aio.sync("s3://bucket/from/", "s3://bucket/to/", progress=False),
    "list": lambda: anext(aio.list("s3://bucket/")),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_cancelled_call_ends_and_leaves_nothing(silent: FaultServer, name: str) -> None:
    async def main() -> None:
        call = asyncio.ensure_future(CALLS[name]())
        await asked(silent, 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    run(main)
    silent.always = Fault()
    before = len(silent.requests)
    silent.objects["/bucket/other"] = b"content"
    assert s3dlio.get("s3://bucket/other") == b"content"
    assert len(silent.requests) == before + 1, "something went on after it was cancelled"


def test_a_deadline(silent: FaultServer) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await aio.get("s3://bucket/key")

    run(main)


def test_what_waits_for_a_thread_can_be_cancelled(silent: FaultServer) -> None:
    async def main() -> None:
        calls = [asyncio.ensure_future(aio.get(f"s3://bucket/{number}")) for number in range(200)]
        await asked(silent, 64)
        for call in calls:
            call.cancel()
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in ended)

    run(main)
    assert len(silent.requests) == 64


def test_after_an_interruption_nothing_begins() -> None:
    interruption = Interruption()
    interruption.interrupt()
    with pytest.raises(CancelledError):
        interruption.run(lambda: s3dlio.put(f"{ROOT}/late", b"content"))
    assert not s3dlio.exists(f"{ROOT}/late")
