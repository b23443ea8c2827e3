"""Connections by the network interfaces that were asked for."""

from __future__ import annotations

import socket

import pytest
import trio

from s3dlio.config import Config
from s3dlio.errors import ConfigError, ConnectionFailedError
from s3dlio.stores.s3.store import S3Store

from ..servers.faults import FaultServer
from .conftest import DATA, MakeStore


async def peers(server: FaultServer, store: S3Store, count: int) -> set[str]:
    """Whence `count` connections come that read at once."""
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(store.get, "key")
    streams = list(server.open.values())
    assert all(isinstance(stream, trio.SocketStream) for stream in streams)
    return {stream.socket.getpeername()[0] for stream in streams if isinstance(stream, trio.SocketStream)}


async def test_connections_are_spread_over_addresses(server: FaultServer, make_store: MakeStore) -> None:
    store = make_store(bind=["127.0.0.5", "127.0.0.6"])
    assert await peers(server, store, 8) == {"127.0.0.5", "127.0.0.6"}


async def test_they_go_by_an_interface_that_is_named(server: FaultServer, make_store: MakeStore) -> None:
    (loopback,) = [name for _, name in socket.if_nameindex() if name == "lo"]
    store = make_store(bind=loopback)
    assert await store.get("key") == DATA
    sock = next(iter(store._service.rotation)).pool._idle[0][0]._stream._sock  # type: ignore[union-attr]
    assert isinstance(sock, socket.socket)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0") == b"lo"


@pytest.mark.parametrize("interface", ["127.0.0.7", "lo"])
async def test_who_is_not_there_is_told_as_ever(make_store: MakeStore, interface: str) -> None:
    store = make_store(endpoint="http://127.0.0.1:1", bind=interface, max_attempts=1)
    with pytest.raises(ConnectionFailedError, match="refused"):
        await store.get("key")


async def test_an_address_of_another_machine_is_an_error(make_store: MakeStore) -> None:
    store = make_store(bind="192.0.2.1", max_attempts=1)
    with pytest.raises(ConnectionFailedError):
        await store.get("key")


async def test_an_interface_that_is_not_there_is_a_matter_of_settings(make_store: MakeStore) -> None:
    with pytest.raises(ConfigError, match="'nowhere0' is neither"):
        await make_store(bind="127.0.0.1,nowhere0").get("key")


@pytest.mark.parametrize("given", [["lo", "127.0.0.1"], ("lo", "127.0.0.1"), "lo,127.0.0.1"])
def test_a_list_or_commas(given: object) -> None:
    assert Config(bind=given).bind == "lo,127.0.0.1"  # type: ignore[arg-type]


def test_the_environment_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3DLIO_BIND", "lo")
    assert Config().bind == "lo"
