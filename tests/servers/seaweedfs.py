"""SeaweedFS: an S3 server in one process, for tests, examples and benchmarks.

It verifies signatures and checksums, answers in under a second after its start, keeps its data in a temporary
directory and listens on loopback alone.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from ..canary import CANARY
from .process import HOST, ServerExitedError, executable, keep_port, running

REGION = "us-east-1"
DOMAIN = "s3.localhost"
"""`BUCKET.s3.localhost` in the Host header is virtual-host addressing."""

SECRET, READERS_SECRET = f"test-{CANARY}", f"readonly-{CANARY}"

_IDENTITIES = {
    "identities": [
        {
            "name": "test",
            "credentials": [{"accessKey": "testkey", "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {
            "name": "readonly",
            "credentials": [{"accessKey": "rokey", "secretKey": READERS_SECRET}],
            "actions": ["Read", "List"],
        },
        {"name": "anonymous", "actions": ["Read:public", "List:public"]},
    ]
}
"""Who may do what. The bucket named `public` may be read unsigned."""


@dataclass(frozen=True)
class SeaweedFS:
    """A running server and the credentials of the identity that may do everything."""

    endpoint: str
    access_key: str = "testkey"
    secret_key: str = field(default=SECRET, repr=False)
    region: str = REGION

    def environment(self) -> dict[str, str]:
        """The variables by which any S3 client finds this server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def as_readonly(self) -> SeaweedFS:
        """The same server, with credentials that may only read and list."""
        return SeaweedFS(self.endpoint, "rokey", READERS_SECRET, self.region)

    def create_bucket(self, name: str) -> None:
        """Create a bucket. Errors: `RuntimeError` with the server's answer."""
        request = AWSRequest(method="PUT", url=f"{self.endpoint}/{name}")
        S3SigV4Auth(Credentials(self.access_key, self.secret_key), "s3", self.region).add_auth(request)
        connection = http.client.HTTPConnection(self.endpoint.removeprefix("http://"), timeout=30)
        with contextlib.closing(connection):
            connection.request("PUT", f"/{name}", headers=dict(request.headers.items()))
            answer = connection.getresponse()
            body = answer.read().decode(errors="replace")
        if answer.status != 200:
            raise RuntimeError(f"creating bucket {name!r}: {answer.status} {body}")


@contextlib.contextmanager
def seaweedfs() -> Iterator[SeaweedFS]:
    """A server with no buckets, stopped and wiped at the end."""
    with seaweedfs_process() as process:
        yield process.server


class SeaweedFSProcess:
    """The process of `server`, which can be killed, and started again where it was, with what it has stored."""

    def __init__(self, home: Path, ports: list[int]) -> None:
        self.server = SeaweedFS(f"http://{HOST}:{ports[0]}")
        self._home = home
        self._ports = ports
        self._running = contextlib.ExitStack()

    def start(self) -> None:
        """Return when it answers. Errors: those of :func:`running`."""
        command, log = _command(self._home, self._ports), self._home / "log"
        self._running.enter_context(running(command, self._ports[0], log, {"TMPDIR": str(self._home)}))

    def kill(self) -> None:
        """At once, by SIGKILL; return when it is gone."""
        self._running.close()


@contextlib.contextmanager
def seaweedfs_process() -> Iterator[SeaweedFSProcess]:
    """One that runs, with no buckets, killed and wiped at the end. Where a port was taken, others are tried once."""
    with contextlib.ExitStack() as started:
        try:
            process = started.enter_context(_process())
        except ServerExitedError:
            process = started.enter_context(_process())
        yield process


@contextlib.contextmanager
def _process() -> Iterator[SeaweedFSProcess]:
    with (
        tempfile.TemporaryDirectory(prefix="seaweedfs-", ignore_cleanup_errors=True) as name,
        contextlib.ExitStack() as kept,
    ):
        home = Path(name)
        (home / "data").mkdir()
        (home / "s3.json").write_text(json.dumps(_IDENTITIES))
        ports = [kept.enter_context(keep_port()).getsockname()[1] for _ in range(10)]
        process = SeaweedFSProcess(home, ports)
        try:
            process.start()
            yield process
        finally:
            process.kill()
            _remove_sockets(ports)


def _remove_sockets(ports: list[int]) -> None:
    """Remove the sockets that the server makes outside its own directory, named by port."""
    for port in ports:
        for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            path.unlink(missing_ok=True)


def _command(home: Path, ports: list[int]) -> list[str]:
    services = ("s3", "master", "volume", "filer", "admin")
    listen = [f"-{service}.port={port}" for service, port in zip(services, ports[:5], strict=True)]
    grpc = [f"-{service}.port.grpc={port}" for service, port in zip(services, ports[5:], strict=True)]
    return [
        *(executable("weed"), "mini", f"-dir={home}/data", f"-ip={HOST}", f"-ip.bind={HOST}", *listen, *grpc),
        *(f"-s3.config={home}/s3.json", f"-s3.domainName={DOMAIN}"),
        *(f"-s3.localSocket={home}/s3.sock", f"-filer.localSocket={home}/filer.sock"),
        *(
            "-volume.max=10000",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-webdav=false",
            "-admin.ui=false",
            "-master.telemetry=false",
        ),
    ]
