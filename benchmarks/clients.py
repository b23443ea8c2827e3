"""The contenders. Nothing of theirs is imported before they are asked to read.

A client reads everything once to warm up (a few objects from the slow server), so that threads, connections and reused
buffers are there, and then reads the case while the clock runs. Clients that iterate also list in that time; the others
are given the keys. s3torchconnector is used as its documentation says, and so is what replaces it. obstore and boto3
read in the way that proved their fastest on two cores: whole objects by blocking calls from a few threads (obstore's
asyncio interface is slower for small objects and no faster for large ones; boto3's `download_fileobj` takes three times
as long for large ones).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from .cases import Job

_POOLED_TASKS = 16
_PEER_THREADS = 4


@dataclass(frozen=True)
class Client:
    """A contender: how it reads, the package it needs, and whether it reads by plain iteration of a dataset."""

    read: Callable[[Job], None]
    package: str
    title: str
    iterates: bool = False
    trusts: bool = True
    """Whether it can be told which authority to trust."""


def _iterate(dataset: Iterable[Any], job: Job) -> None:
    """`for item in dataset: item.read()`."""
    job.start()
    for item in islice(dataset, job.case.warm_up):
        job.count(len(item.read()))
    with job.measured():
        for _ in range(job.case.passes):
            for item in dataset:
                job.count(len(item.read()))


def _drop_in(job: Job) -> None:
    from s3dlio.compat.s3torchconnector import S3IterableDataset

    _iterate(S3IterableDataset.from_prefix(f"s3://{job.case.bucket}/", region="us-east-1"), job)


def _s3torchconnector(job: Job) -> None:
    from s3torchconnector import S3IterableDataset

    _iterate(S3IterableDataset.from_prefix(f"s3://{job.case.bucket}/", region="us-east-1"), job)


def _pooled(job: Job) -> None:
    """Into reused buffers: large objects one after another, each in parallel parts; small ones by several tasks."""
    import trio

    import s3dlio
    from s3dlio.alignment import BufferPool

    case = job.case
    tasks = 1 if case.is_large else _POOLED_TASKS
    pool = BufferPool(tasks * case.size)

    async def read(store: s3dlio.ObjectStore, keys: Iterator[str]) -> None:
        for key in keys:
            async with pool.lease(case.size) as lease:
                await store.get_into(key, lease.view)
            job.count(case.size)

    async def read_all(store: s3dlio.ObjectStore) -> None:
        keys = iter(case.keys)
        async with trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(read, store, keys)

    async def main() -> None:
        async with s3dlio.open_store(f"s3://{case.bucket}") as store:
            job.start()
            await read_all(store)
            with job.measured():
                for _ in range(case.passes):
                    await read_all(store)

    trio.run(main)


def _obstore(job: Job) -> None:
    import obstore

    store = obstore.store.S3Store(  # it takes no file of authorities to trust
        job.case.bucket, client_options={"allow_http": True, "allow_invalid_certificates": job.case.tls}
    )
    _measure_threads(lambda key: len(obstore.get(store, key).bytes()), job)


def _boto3(job: Job) -> None:
    import boto3

    client = boto3.client("s3")
    _measure_threads(lambda key: len(client.get_object(Bucket=job.case.bucket, Key=key)["Body"].read()), job)


def _raw_socket(job: Job) -> None:
    """The ceiling: one blocking connection, one small buffer, and requests signed beforehand, in their URLs."""
    import botocore.session

    case = job.case
    signer = botocore.session.get_session().create_client("s3")
    urls = [signer.generate_presigned_url("get_object", {"Bucket": case.bucket, "Key": key}) for key in case.keys]
    address = urlsplit(os.environ["AWS_ENDPOINT_URL"])
    paths = [url.removeprefix(f"http://{address.netloc}") for url in urls]
    requests = [f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode() for path in paths]
    buffer = bytearray(1 << 18)

    with socket.create_connection((address.hostname, address.port)) as connection:

        def read_all() -> None:
            for request in requests:
                connection.sendall(request)
                job.count(_receive(connection, memoryview(buffer)))

        _measure(read_all, job)


def _receive(connection: socket.socket, view: memoryview) -> int:
    """One answer, dropped; the length of its body."""
    head, _, start = bytes(view[: connection.recv_into(view)]).partition(b"\r\n\r\n")
    lines = (line.partition(b":") for line in head.lower().split(b"\r\n"))
    length = next(int(value) for name, _, value in lines if name == b"content-length")
    left = length - len(start)
    while left:
        received = connection.recv_into(view, min(left, len(view)))
        if not received:
            raise ConnectionError("the server closed the connection in the middle of an answer")
        left -= received
    return length


def _measure_threads(get: Callable[[str], int], job: Job) -> None:
    """`get` reads a whole object and gives its size."""
    with ThreadPoolExecutor(_PEER_THREADS) as threads:

        def read_all() -> None:
            for size in threads.map(get, job.case.keys):
                job.count(size)

        _measure(read_all, job)


def _measure(read_all: Callable[[], None], job: Job) -> None:
    job.start()
    read_all()
    with job.measured():
        for _ in range(job.case.passes):
            read_all()


CLIENTS = {
    "raw": Client(_raw_socket, "botocore", "raw socket, one connection", trusts=False),
    "read": Client(_drop_in, "s3dlio", "s3dlio, drop-in `read()`", iterates=True),
    "pooled": Client(_pooled, "s3dlio", "s3dlio, into a pooled buffer"),
    "s3torchconnector": Client(
        _s3torchconnector, "s3torchconnector", "s3torchconnector, `read()`", iterates=True, trusts=False
    ),
    "obstore": Client(_obstore, "obstore", f"obstore, {_PEER_THREADS} threads"),
    "boto3": Client(_boto3, "boto3", f"boto3, {_PEER_THREADS} threads"),
}

PEERS = ("s3torchconnector", "obstore", "boto3")
