"""How other libraries do the cases: as their documentation says, in the way that proved their fastest on two cores.

obstore and boto3 read whole objects by blocking calls from a few threads (boto3's `download_fileobj` takes three times
as long for large ones); obstore's asyncio interface does better with many that are far away.
"""

from __future__ import annotations

import asyncio
import io
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .cases import Job, MiB, Verb

THREADS = 4
TASKS = 64
_WRITE = 16 * MiB

Act = Callable[[Job], None]


def measure(act: Callable[[], None], job: Job) -> None:
    """`act` does the whole case, once."""
    job.start()
    if job.case.warm_up:
        act()
    with job.measured():
        for _ in range(job.case.passes):
            act()


async def measure_async(act: Callable[[], Awaitable[None]], job: Job) -> None:
    """As :func:`measure`."""
    job.start()
    if job.case.warm_up:
        await act()
    with job.measured():
        for _ in range(job.case.passes):
            await act()


def _read_in_threads(get: Callable[[str], int], job: Job) -> None:
    """`get` reads a whole object and gives its size."""
    with ThreadPoolExecutor(THREADS if not job.case.slow else TASKS) as threads:

        def read_all() -> None:
            for size in threads.map(get, job.case.keys):
                job.count(size)

        measure(read_all, job)


def _pieces(job: Job) -> Iterator[bytes]:
    piece = os.urandom(_WRITE)
    return (piece for _ in range(job.case.size // _WRITE))


def _obstore_store(job: Job) -> Any:
    import obstore

    # it takes no file of authorities to trust
    options: Any = {"allow_http": True, "allow_invalid_certificates": job.case.tls}
    return obstore.store.S3Store(job.case.bucket, client_options=options)


def _obstore_get(job: Job) -> None:
    import obstore

    store = _obstore_store(job)
    _read_in_threads(lambda key: len(obstore.get(store, key).bytes()), job)


def _obstore_gather(job: Job) -> None:
    import obstore

    store = _obstore_store(job)

    async def main() -> None:
        free = asyncio.Semaphore(TASKS)

        async def read(key: str) -> None:
            async with free:
                job.count(len(await (await obstore.get_async(store, key)).bytes_async()))

        async def read_all() -> None:
            await asyncio.gather(*map(read, job.case.keys))

        await measure_async(read_all, job)

    asyncio.run(main())


def _obstore_list(job: Job) -> None:
    import obstore

    store = _obstore_store(job)

    def list_all() -> None:
        for page in obstore.list(store, chunk_size=1000):
            for _ in page:
                job.count(0)

    measure(list_all, job)


def _obstore_write(job: Job) -> None:
    import obstore

    store = _obstore_store(job)

    def write() -> None:
        with obstore.open_writer(store, "checkpoint") as writer:
            for piece in _pieces(job):
                writer.write(piece)
        job.count(job.case.size)

    measure(write, job)


def _rust() -> Any:
    """The package of that name in this interpreter's environment, not this one."""
    sys.path[:] = [folder for folder in sys.path if folder not in ("", os.getcwd())]
    import s3dlio

    return s3dlio


def _rust_get(job: Job) -> None:
    rust, uris = _rust(), [f"s3://{job.case.bucket}/{key}" for key in job.case.keys]

    def read_all() -> None:
        if job.case.is_large:
            for uri in uris:
                job.count(len(rust.get(uri)))
        else:
            for _, data in rust.get_many(uris, max_in_flight=TASKS):
                job.count(len(data))

    measure(read_all, job)


def _rust_list(job: Job) -> None:
    rust = _rust()

    def list_all() -> None:
        for _ in rust.list(f"s3://{job.case.bucket}/", recursive=True):
            job.count(0)

    measure(list_all, job)


def _rust_write(job: Job) -> None:
    rust = _rust()

    def write() -> None:
        writer = rust.MultipartUploadWriter(job.case.bucket, "checkpoint")
        for piece in _pieces(job):
            writer.write(piece)
        writer.close()
        job.count(job.case.size)

    measure(write, job)


def _boto3_get(job: Job) -> None:
    import boto3

    client = boto3.client("s3")
    _read_in_threads(lambda key: len(client.get_object(Bucket=job.case.bucket, Key=key)["Body"].read()), job)


def _boto3_list(job: Job) -> None:
    import boto3

    pages = boto3.client("s3").get_paginator("list_objects_v2")

    def list_all() -> None:
        for page in pages.paginate(Bucket=job.case.bucket):
            for _ in page["Contents"]:
                job.count(0)

    measure(list_all, job)


def _boto3_write(job: Job) -> None:
    import boto3

    client = boto3.client("s3")

    def write() -> None:
        client.upload_fileobj(io.BytesIO(b"".join(_pieces(job))), job.case.bucket, "checkpoint")
        job.count(job.case.size)

    measure(write, job)


def _aiobotocore_get(job: Job) -> None:
    import trio
    from aiobotocore.config import AioConfig
    from aiobotocore.httpxsession import HttpxSession
    from aiobotocore.session import get_session

    config = AioConfig(http_session_cls=HttpxSession, max_pool_connections=TASKS)

    async def main() -> None:
        async with get_session().create_client("s3", config=config) as client:

            async def read(keys: Iterator[str]) -> None:
                for key in keys:
                    answer = await client.get_object(Bucket=job.case.bucket, Key=key)
                    async with answer["Body"] as body:
                        job.count(len(await body.read()))

            async def read_all() -> None:
                keys = iter(job.case.keys)
                async with trio.open_nursery() as nursery:
                    for _ in range(TASKS):
                        nursery.start_soon(read, keys)

            await measure_async(read_all, job)

    trio.run(main)


OBSTORE: dict[Verb, Act] = {"get": _obstore_get, "list": _obstore_list, "write": _obstore_write}
OBSTORE_ASYNC: dict[Verb, Act] = {"get": _obstore_gather}
RUST: dict[Verb, Act] = {"get": _rust_get, "list": _rust_list, "write": _rust_write}
BOTO3: dict[Verb, Act] = {"get": _boto3_get, "list": _boto3_list, "write": _boto3_write}
AIOBOTOCORE: dict[Verb, Act] = {"get": _aiobotocore_get}
