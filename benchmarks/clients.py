"""The contenders. Nothing of theirs is imported before they are asked to read.

A client does everything once to warm up (not where the server is slow), so that threads, connections and reused buffers
are there, and then does the case while the clock runs. Clients that iterate also list in that time; the others are
given the keys. s3torchconnector is used as its documentation says, and so is what replaces it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from . import peers
from .cases import Case, Job, MiB, Verb, think

_DROP_IN = "s3dlio.compat.s3torchconnector"
_POOLED_TASKS = 32
_WRITE = 16 * MiB
"""Bytes of a checkpoint that are written at a time."""

Act = Callable[[Job], None]


@dataclass(frozen=True)
class Client:
    """A contender: the package it needs, and how it does what it can do."""

    package: str
    title: str
    acts: Mapping[Verb, Act]
    iterates: bool = False
    """Whether it has the classes that are swapped."""
    trusts: bool = True
    """Whether it can be told which authority to trust."""
    small_only: bool = False
    apart: bool = False
    """Whether it lives in another environment, as its package is called like this one."""

    def takes_part(self, case: Case) -> bool:
        """Whether it can do this."""
        fits = self.iterates or not case.by_iteration
        return fits and case.verb in self.acts and not (self.small_only and case.is_large)


def _iterate(module: str, job: Job) -> None:
    """`for item in dataset: item.read()`, in this process, or by a DataLoader's."""
    case, uri = job.case, f"s3://{job.case.bucket}/"
    dataset = import_module(module).S3IterableDataset
    if case.workers:
        loader = _data_loader(partial(import_module(module).S3MapDataset.from_prefix, uri, region="us-east-1"), case)
        _measure_sizes(loader, job)
    else:
        items = dataset.from_prefix(uri, region="us-east-1")
        _measure_sizes(lambda: (len(item.read()) for item in items), job)


def _data_loader(dataset: Callable[..., Any], case: Case) -> Callable[[], Iterable[int]]:
    """Batches of sizes: what the workers read is not carried to this process, as that costs all clients the same."""
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(
        dataset(transform=_size),
        batch_size=10,
        num_workers=case.workers,
        multiprocessing_context="fork",
        persistent_workers=True,
    )
    return lambda: (int(size) for batch in loader for size in batch)


def _size(item: Any) -> int:
    return len(item.read())


def _measure_sizes(sizes: Callable[[], Iterable[int]], job: Job) -> None:
    """`sizes()` reads all objects, one at a time."""
    case = job.case
    job.start()
    for size in islice(sizes(), case.warm_up) if case.warm_up else ():
        job.count(size)
    with job.measured():
        for _ in range(case.passes):
            for size in sizes():
                job.count(size)
                if case.think:
                    think(case.think)


def _iterate_unchecked(module: str, job: Job) -> None:
    """The same, by who compares no checksums."""
    os.environ["S3DLIO_CHECKSUMS"] = "off"
    _iterate(module, job)


def _list_dataset(module: str, job: Job) -> None:
    """What tells the length of a `S3MapDataset`."""
    dataset = import_module(module).S3MapDataset

    def list_all() -> None:
        for _ in range(len(dataset.from_prefix(f"s3://{job.case.bucket}/", region="us-east-1"))):
            job.count(0)

    peers.measure(list_all, job)


def _write_checkpoint(module: str, job: Job) -> None:
    checkpoint = import_module(module).S3Checkpoint(region="us-east-1")
    piece = os.urandom(_WRITE)

    def write() -> None:
        with checkpoint.writer(f"s3://{job.case.bucket}/checkpoint") as writer:
            for _ in range(job.case.size // _WRITE):
                writer.write(piece)
        job.count(job.case.size)

    peers.measure(write, job)


def _save_tensor(module: str, job: Job) -> None:
    import torch

    checkpoint = import_module(module).S3Checkpoint(region="us-east-1")
    state = {str(number): torch.ones(_WRITE, dtype=torch.uint8) for number in range(job.case.size // _WRITE)}

    def save() -> None:
        with checkpoint.writer(f"s3://{job.case.bucket}/checkpoint") as writer:
            torch.save(state, writer)
        job.count(job.case.size)

    peers.measure(save, job)


def _load(module: str, job: Job) -> None:
    """Each object a tensor: by `tensor()` where readers have it, else as their documentation makes one of bytes."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset = import_module(module).S3IterableDataset

    def tensor(item: Any) -> Any:
        if hasattr(item, "tensor"):
            return item.tensor(pin_memory=device.type == "cuda")
        return torch.frombuffer(bytearray(item.read()), dtype=torch.uint8)

    def load_all() -> None:
        for item in dataset.from_prefix(f"s3://{job.case.bucket}/", region="us-east-1"):
            job.count(len(tensor(item).to(device)))

    peers.measure(load_all, job)


def _swapped(module: str) -> dict[Verb, Act]:
    """What the classes of s3torchconnector do, or those that replace them."""
    return {
        "get": partial(_iterate, module),
        "list": partial(_list_dataset, module),
        "write": partial(_write_checkpoint, module),
        "save": partial(_save_tensor, module),
        "load": partial(_load, module),
    }


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
            await peers.measure_async(partial(read_all, store), job)

    trio.run(main)


def _get_many(job: Job) -> None:
    import trio

    import s3dlio

    async def read_all(store: s3dlio.ParallelStore) -> None:
        async with store.get_many(job.case.keys) as reader:
            async for _, content in reader:
                job.count(len(content))

    async def main() -> None:
        async with s3dlio.open_store(f"s3://{job.case.bucket}") as store:
            await peers.measure_async(partial(read_all, store), job)

    trio.run(main)


def _list_trio(job: Job) -> None:
    import trio

    import s3dlio

    async def list_all(store: s3dlio.ObjectStore) -> None:
        async for page in store.list():
            for _ in page.objects:
                job.count(0)

    async def main() -> None:
        async with s3dlio.open_store(f"s3://{job.case.bucket}") as store:
            await peers.measure_async(partial(list_all, store), job)

    trio.run(main)


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

        peers.measure(read_all, job)


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


CLIENTS = {
    "raw": Client("botocore", "raw socket, one connection", {"get": _raw_socket}, trusts=False),
    "read": Client(
        "s3dlio", "s3dlio, drop-in", {**_swapped(_DROP_IN), "check": partial(_iterate, _DROP_IN)}, iterates=True
    ),
    "unchecked": Client("s3dlio", "s3dlio, drop-in, checksums off", {"check": partial(_iterate_unchecked, _DROP_IN)}),
    "pooled": Client("s3dlio", "s3dlio on Trio, into pooled buffers", {"get": _pooled, "list": _list_trio}),
    "many": Client("s3dlio", "s3dlio on Trio, get_many", {"get": _get_many}, small_only=True),
    "s3torchconnector": Client(
        "s3torchconnector", "s3torchconnector", _swapped("s3torchconnector"), iterates=True, trusts=False
    ),
    "obstore": Client("obstore", f"obstore, {peers.THREADS} threads", peers.OBSTORE),
    "obstore async": Client("obstore", f"obstore, asyncio, {peers.TASKS} tasks", peers.OBSTORE_ASYNC, small_only=True),
    "s3dlio in Rust": Client("s3dlio", "s3dlio 0.10, in Rust", peers.RUST, trusts=False, apart=True),
    "boto3": Client("boto3", f"boto3, {peers.THREADS} threads", peers.BOTO3),
    "aiobotocore": Client("aiobotocore", f"aiobotocore on Trio, {peers.TASKS} tasks", peers.AIOBOTOCORE, trusts=False),
}

PEERS = ("s3torchconnector", "obstore", "obstore async", "s3dlio in Rust", "boto3")
