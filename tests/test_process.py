"""What holds for a whole process: its imports, its exit, Ctrl-C, its memory."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.interpreter import Ended, run_forked, run_python
from tests.servers.seaweedfs import SeaweedFS

HEAVY = ("torch", "numba", "botocore", "google.auth", "azure.identity", "tqdm", "boto3")


def test_import_loads_nothing_heavy() -> None:
    done = run_python(f"import sys, s3dlio\nprint([name for name in {HEAVY} if name in sys.modules])")
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize(
    ("uri", "variables"),
    [
        ("s3://bucket", {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}),
        (
            "s3://bucket",
            {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_CONFIG_FILE": os.devnull},
        ),
        ("az://container", {"AZURE_STORAGE_ACCOUNT_NAME": "account", "AZURE_STORAGE_ACCOUNT_KEY": "a2V5"}),
        ("gs://bucket", {"STORAGE_EMULATOR_HOST": "127.0.0.1:1"}),
        ("file:///tmp/", {}),
        ("direct:///tmp/", {}),
    ],
)
def test_a_store_loads_nothing_heavy_that_it_does_not_need(uri: str, variables: dict[str, str]) -> None:
    """Even when it is used: what is asked for is absent, or nobody answers."""
    done = run_python(
        f"""
import contextlib, sys
import s3dlio, trio

async def main():
    async with s3dlio.open_store({uri!r}, max_attempts=1, connect_timeout=1) as store:
        with contextlib.suppress(s3dlio.StoreError):
            await store.get("absent")

trio.run(main)
print([name for name in {HEAVY} if name in sys.modules])
""",
        AWS_ENDPOINT_URL="http://127.0.0.1:1",
        AZURE_BLOB_ENDPOINT_URL="http://127.0.0.1:1",
        **variables,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.fixture
def black_hole() -> Iterator[socket.socket]:
    """A server that takes connections, when it is told to, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        yield listener


@pytest.mark.parametrize(
    "call",
    [
        's3dlio.get("s3://bucket/key")',
        's3dlio.put("s3://bucket/key", bytes(16 << 20))',
        'list(s3dlio.list("s3://bucket/"))',
    ],
)
def test_interrupt_ends_a_call_that_gets_no_answer(black_hole: socket.socket, call: str) -> None:
    """The request would wait for a minute; the test's own bound is half of that.

    The pump is loaded before: while a thread imports, CPython may forget that it was an interrupt that ended it.
    """
    lines = "import s3dlio\nfrom s3dlio.transport.pump_code import wait_for_code\nwait_for_code(60)\n"
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", lines + call]
    variables = os.environ | {
        "AWS_ENDPOINT_URL": "http://{}:{}".format(*black_hole.getsockname()),
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=variables) as process:
        connection, _ = black_hole.accept()
        with connection:
            assert connection.recv(4) in (b"GET ", b"POST")
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert "ResourceWarning" not in errors
    assert process.returncode == -signal.SIGINT


@pytest.mark.parametrize("failing", [False, True])
def test_a_process_exits_quietly_after_use(s3_server: SeaweedFS, bucket: str, failing: bool) -> None:
    uri = f"s3://{bucket}/key"
    failure = 's3dlio.get("s3://no-such-bucket/key")' if failing else ""
    code = f"import s3dlio\ns3dlio.put({uri!r}, b'body')\nassert s3dlio.get({uri!r}) == b'body'\n{failure}"
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", code]
    variables = os.environ | s3_server.environment()
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=variables)
    assert done.returncode == int(failing)
    assert done.stderr.count("Traceback") == int(failing)
    assert "Warning" not in done.stderr


_MANY_READS = """
import json, os, resource, trio
import s3dlio
from s3dlio.alignment.buffers import BufferPool

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

async def main():
    pool = BufferPool(256 << 20)
    async with s3dlio.open_store(uri) as store:
        metas = [item async for page in store.list() for item in page.objects]
        assert len(metas) == keys
        before, highest, done = resident(), 0, 0

        async def read(meta):
            nonlocal highest, done
            async with pool.lease(meta.size) as buffer:
                await store.get_into(meta.key, buffer.view)
                name = meta.key.rpartition("/")[2].encode()
                assert bytes(buffer.view[:8]) == name.rjust(8)
                assert bytes(buffer.view[-8:]) == name.ljust(8)
                done += meta.size
                highest = max(highest, resident())

        async with trio.open_nursery() as nursery:
            for _ in range(rounds):
                for meta in metas:
                    nursery.start_soon(read, meta)
    print(json.dumps({"bytes": done, "growth": highest - before}))

trio.run(main)
"""

_MANY_BODIES = """
import json, resource
from s3dlio.config import Config
from s3dlio.blocking.prefetch import Want
from s3dlio.blocking.readahead import ReadAhead
from s3dlio.blocking.store import BlockingStore
from s3dlio.urls import parse_uri

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

store = BlockingStore(parse_uri(uri), Config())
metas = [item for page in store.list_pages() for item in page.objects]
assert len(metas) == keys
before, highest, done = resident(), 0, 0
for _ in range(rounds):
    ahead = ReadAhead(Want(store, meta.key, meta) for meta in metas)
    for position, want in ahead:
        done += len(ahead.body(position))
        highest = max(highest, resident())
print(json.dumps({"bytes": done, "growth": highest - before}))
"""


_DROP_IN = """
import json
from s3dlio.compat.s3torchconnector import S3Checkpoint, S3IterableDataset, S3MapDataset

REGION = "us-east-1"

def highest():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))

def readers():
    if face == "iteration":
        yield from S3IterableDataset.from_prefix(uri, region=REGION)
    elif face == "batches":
        dataset = S3MapDataset.from_prefix(uri, region=REGION)
        for start in range(0, len(dataset), 5):
            batch = dataset.__getitems__(range(start, start + 5))
            yield from (batch.pop(0) for _ in range(5))  # a reader keeps its body
    else:
        checkpoint = S3Checkpoint(region=REGION)
        yield from (checkpoint.reader(f"{uri}k{number}") for number in range(keys))

before, done = highest(), 0
for _ in range(rounds):
    for reader in readers():
        body, name = reader.read(), reader.key.rpartition("/")[2].encode()
        assert body[:8] == name.rjust(8)
        assert body[-8:] == name.ljust(8)
        done += len(body)
print(json.dumps({"bytes": done, "growth": highest() - before}))
"""

_UNKNOWN_SIZES = """
import json
from s3dlio.compat.s3torchconnector import S3IterableDataset, S3MapDataset

def highest():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))

if face == "iterable":
    readers = iter(S3IterableDataset.from_objects(uris, region="us-east-1"))
else:
    batch = S3MapDataset.from_objects(uris, region="us-east-1").__getitems__(range(len(uris)))
    readers = (batch.pop(0) for _ in uris)  # a reader keeps its body
before, done = highest(), 0
for reader in readers:
    done += len(reader.read())
print(json.dumps({"bytes": done, "growth": highest() - before}))
"""

_KEYS, _SIZE = 10, 32 << 20
_LARGE, _TIMES = 64 << 20, 16
"""Those whose sizes are not known before: a gigabyte, which is four times the limit."""

_FACES = {
    "pooled buffers": (_MANY_READS, 1),
    "read ahead": (_MANY_BODIES, 1),
    "iteration": (_DROP_IN, 1),
    "batches": (_DROP_IN, 10),
    "checkpoints": (_DROP_IN, 1),
}
"""The program of each, and how many gigabytes it reads."""


@pytest.fixture(scope="module")
def figures(s3_server: SeaweedFS, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """What was read by each face, and by how much its process grew, each in a process of its own."""
    import s3dlio

    s3_server.create_bucket("memory")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment().items():
            patch.setenv(name, value)
        for number in range(_KEYS):
            key = f"k{number}".encode()
            middle = os.urandom(1 << 20) * ((_SIZE >> 20) - 1) + os.urandom((1 << 20) - 16)
            s3dlio.put(f"s3://memory/many/k{number}", key.rjust(8) + middle + key.ljust(8))
        uris = [f"s3://memory/large/{number}" for number in range(2)]
        for uri in uris:
            s3dlio.put(uri, os.urandom(1 << 20) * (_LARGE >> 20))
    programs = {
        face: f"uri, keys, rounds, face = 's3://memory/many/', {_KEYS}, {3 * gigabytes}, {face!r}\n{program}"
        for face, (program, gigabytes) in _FACES.items()
    }
    for face in ("iterable", "map"):
        programs[face] = f"uris, face = {uris} * {_TIMES // 2}, {face!r}\n{_UNKNOWN_SIZES}"
    folder = tmp_path_factory.mktemp("memory")
    modules, variables = "s3dlio.compat.s3torchconnector", s3_server.environment()
    return run_forked(programs, folder, modules, "-W", "error", variables=variables)


@pytest.mark.parametrize("face", _FACES)
@pytest.mark.timeout(300)
def test_many_times_the_memory_limit_stay_within_it(face: str, figures: dict[str, Ended]) -> None:
    """256 MiB of buffers, 100 MiB for everything else, however much is read."""
    assert figures[face].returncode == 0, figures[face].stderr  # which warns of a server that is kept waiting
    told = json.loads(figures[face].stdout)
    _, gigabytes = _FACES[face]
    assert told["bytes"] == _SIZE * _KEYS * 3 * gigabytes > gigabytes * 10**9
    assert told["growth"] < (256 + 100) << 20


@pytest.mark.parametrize("kind", ["iterable", "map"])
@pytest.mark.timeout(300)
def test_objects_of_unknown_size_stay_within_the_memory_limit(kind: str, figures: dict[str, Ended]) -> None:
    """The limit of 256 MiB, and 150 MiB for what the consumer holds and everything else."""
    assert figures[kind].returncode == 0, figures[kind].stderr
    told = json.loads(figures[kind].stdout)
    assert told["bytes"] == _LARGE * _TIMES > 10**9
    assert told["growth"] < (256 + 150) << 20
