"""Every face of the package by way of a proxy, to real servers, which verify what was signed."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import s3dlio
from s3dlio.compat.s3torchconnector import S3Checkpoint, S3Exception, S3IterableDataset, S3MapDataset, S3Reader
from s3dlio.config import Config

from ..places import Place
from ..servers.proxy import ProxyServer, proxy_in_thread
from ..servers.seaweedfs import SeaweedFS

BODIES = {f"train/{number:03}": bytes([number]) * (number * 100) for number in range(40)}
LARGE = bytes(range(256)) * (20 << 12)


@pytest.fixture
def proxy() -> Iterator[ProxyServer]:
    with proxy_in_thread("user:password") as running:
        yield running


def url_of(proxy: ProxyServer) -> str:
    return proxy.url.replace("//", "//user:password@")


@pytest.fixture
def in_environment(proxy: ProxyServer, monkeypatch: pytest.MonkeyPatch) -> ProxyServer:
    monkeypatch.setenv("HTTP_PROXY", url_of(proxy))
    return proxy


def body_of(reader: S3Reader) -> tuple[str, bytes]:
    return reader.key, reader.read()


@pytest.mark.usefixtures("environment")
def test_blocking_verbs_of_all_clouds(place: Place, in_environment: ProxyServer) -> None:
    uri = f"{place.root}/by-proxy"
    s3dlio.put(f"{uri}/small", b"small")
    s3dlio.put(f"{uri}/large", LARGE)
    assert s3dlio.get(f"{uri}/large") == LARGE
    assert [item.key.rpartition("/")[2] for item in s3dlio.list(f"{uri}/")] == ["large", "small"]
    asked = len(in_environment.asked)
    s3dlio.delete(f"{uri}/small")
    assert not s3dlio.exists(f"{uri}/small")
    assert (len(in_environment.asked) >= asked + 2) is (asked > 0) is not place.root.startswith(("file", "direct"))


def test_the_environment_may_change_between_two_calls(
    s3_environment: SeaweedFS, bucket: str, proxy: ProxyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, seen = f"s3://{bucket}/key", list[int]()
    s3dlio.put(uri, b"data")
    for variables in ({}, {"HTTP_PROXY": url_of(proxy)}, {"NO_PROXY": "127.0.0.1"}, {"NO_PROXY": "elsewhere"}):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert s3dlio.get(uri) == b"data"
        seen.append(len(proxy.asked))
    assert seen == [0, 1, 1, 2]


def test_a_configuration_goes_to_another_process_with_its_proxy(
    s3_environment: SeaweedFS, bucket: str, proxy: ProxyServer
) -> None:
    sent = pickle.loads(pickle.dumps(Config(proxy=url_of(proxy))))
    s3dlio.put(f"s3://{bucket}/key", b"data", config=sent)
    assert s3dlio.get(f"s3://{bucket}/key", config=Config(proxy="none")) == b"data"
    assert [asked.method for asked in proxy.asked] == ["PUT"]


@pytest.mark.parametrize("workers", [0, 2])
def test_data_sets(s3_environment: SeaweedFS, bucket: str, in_environment: ProxyServer, workers: int) -> None:
    root = f"s3://{bucket}/"
    for key, body in BODIES.items():
        s3dlio.put(root + key, body, config=Config(proxy="none"))
    assert in_environment.asked == []
    kinds: tuple[Any, ...] = (S3IterableDataset, S3MapDataset)
    for kind in kinds:
        in_environment.asked.clear()
        data = kind.from_prefix(f"{root}train/", region="us-east-1", transform=body_of)
        loader = DataLoader(data, batch_size=8, num_workers=workers, collate_fn=list)
        assert dict(item for batch in loader for item in batch) == BODIES
        targets = {asked.target for asked in in_environment.asked}
        assert {f"{s3_environment.endpoint}/{bucket}/{key}" for key in BODIES} <= targets
        assert all("proxy-authorization" in asked.headers for asked in in_environment.asked)
        assert not any("proxy" in asked.headers["authorization"] for asked in in_environment.asked)


def test_a_checkpoint(s3_environment: SeaweedFS, bucket: str, in_environment: ProxyServer) -> None:
    checkpoint: Any = S3Checkpoint(region="us-east-1")
    with checkpoint.writer(f"s3://{bucket}/epoch0.ckpt") as writer:
        torch.save({"weights": torch.arange(3 << 20)}, writer)
    with checkpoint.reader(f"s3://{bucket}/epoch0.ckpt") as reader:
        assert torch.equal(torch.load(reader)["weights"], torch.arange(3 << 20))
    assert {asked.method for asked in in_environment.asked} >= {"POST", "PUT", "GET"}


def test_what_the_drop_in_says_of_a_refusal(
    s3_environment: SeaweedFS, bucket: str, in_environment: ProxyServer
) -> None:
    in_environment.user = "somebody:else"
    with pytest.raises(S3Exception, match=f"the proxy {in_environment.url} answered 407") as caught:
        S3Checkpoint(region="us-east-1").reader(f"s3://{bucket}/key").read()
    assert isinstance(caught.value, ConnectionError)
