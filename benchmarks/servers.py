"""The servers that are read from, each in a process of its own, on loopback.

nginx is the first choice: it sends files from the page cache at next to no cost, and looks like S3 to its clients, but
checks no signature. SeaweedFS costs more than the clients do, so with it all of them look alike.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio
import trustme

import s3dlio
from s3dlio.alignment import Checksum
from tests.servers.process import HOST, free_ports, running
from tests.servers.seaweedfs import seaweedfs

from .cases import LATENCY, Case

ROOT = Path(__file__).resolve().parents[1]

_NGINX = """
daemon off;
user {user};
worker_processes {workers};
pid {home}/pid;
error_log stderr error;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    sendfile on;
    map $args $page {{
        default "";
        "~(?:^|&)continuation-token=(?<token>[0-9]+)" .$token;
    }}
    map $uri $checksum {{
        default "";
        {checksums}
    }}
    map $checksum $checksum_type {{
        default "FULL_OBJECT";
        "" "";
    }}
    add_header x-amz-checksum-crc64nvme $checksum;
    add_header x-amz-checksum-type $checksum_type;
    tcp_nopush on;
    keepalive_requests 1000000;
    server {{
        listen {host}:{port} reuseport;
        listen {host}:{tls_port} ssl reuseport;
        ssl_certificate {home}/certificate.pem;
        ssl_certificate_key {home}/key.pem;
        root {folder};
        default_type binary/octet-stream;
        location ~ ^/(?<bucket>[a-z]+)/?$ {{
            default_type application/xml;
            try_files /$bucket$page.xml =404;
        }}
    }}
}}
"""


@dataclass(frozen=True)
class Server:
    """A running server: its name, and the variables by which every client finds it."""

    name: str
    environment: dict[str, str] = field(repr=False)
    encrypted: dict[str, str] = field(default_factory=dict, repr=False)
    """The same for TLS, where it speaks that."""


def without_signatures(endpoint: str) -> dict[str, str]:
    """The variables by which a server is found that checks none."""
    return {
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextlib.contextmanager
def fast_server(folder: Path, cases: Sequence[Case]) -> Iterator[Server]:
    """A server of the objects in `folder`: nginx where it is installed, else SeaweedFS."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    with _nginx(program, folder, cases) if program else _seaweedfs(folder, cases) as server:
        yield server


@contextlib.contextmanager
def slow_server(folder: Path) -> Iterator[Server]:
    """A server of the objects in `folder` that answers after `LATENCY`."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "benchmarks.slow_server", str(folder), str(port), str(LATENCY)]
    with running(command, port, folder.with_name("slow.log"), {"PYTHONPATH": str(ROOT)}):
        yield Server(f"a server that waits {LATENCY * 1000:.0f} ms", without_signatures(f"http://{HOST}:{port}"))


@contextlib.contextmanager
def sink_server(folder: Path) -> Iterator[Server]:
    """A server that takes writes and keeps nothing; what it logs goes beside `folder`."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "benchmarks.sink_server", str(port)]
    with running(command, port, folder.with_name("sink.log"), {"PYTHONPATH": str(ROOT)}):
        yield Server("a server that keeps nothing", without_signatures(f"http://{HOST}:{port}"))


@contextlib.contextmanager
def _nginx(program: str, folder: Path, cases: Sequence[Case]) -> Iterator[Server]:
    port, tls_port = free_ports(2)
    home = folder.with_name("nginx")
    home.mkdir()
    authority, settings = home / "authority.pem", home / "nginx.conf"
    _certify(authority, home)
    places = {"home": home, "folder": folder, "host": HOST, "port": port, "tls_port": tls_port}
    places["checksums"] = "\n".join(_told(folder, case) for case in cases if case.verb == "check")
    settings.write_text(_NGINX.format(user=_user(), workers=max(1, (os.cpu_count() or 1) // 2), **places))
    encrypted = without_signatures(f"https://{HOST}:{tls_port}") | {"AWS_CA_BUNDLE": str(authority)}
    with running([program, "-p", str(home), "-c", str(settings)], port, home / "log"):
        yield Server("nginx", without_signatures(f"http://{HOST}:{port}"), encrypted)


def _told(folder: Path, case: Case) -> str:
    """Lines of nginx's, of the checksums of all objects."""
    sums = {key: Checksum("CRC64NVME", (folder / case.bucket / key).read_bytes()) for key in case.keys}
    return "\n".join(f'"/{case.bucket}/{key}" "{checksum.base64}";' for key, checksum in sums.items())


def _user() -> str:
    """This one, and its group: who else may not read what it serves."""
    return f"{pwd.getpwuid(os.getuid()).pw_name} {grp.getgrgid(os.getgid()).gr_name}"


def _certify(authority: Path, home: Path) -> None:
    """A certificate for the server, and whom to trust for it."""
    maker = trustme.CA()
    maker.cert_pem.write_to_path(authority)
    certificate = maker.issue_cert(HOST)
    certificate.cert_chain_pems[0].write_to_path(home / "certificate.pem")
    certificate.private_key_pem.write_to_path(home / "key.pem")


@contextlib.contextmanager
def _seaweedfs(folder: Path, cases: Sequence[Case]) -> Iterator[Server]:
    with seaweedfs() as server:
        os.environ.update(server.environment())
        for case in cases:
            server.create_bucket(case.bucket)
            trio.run(_upload, folder / case.bucket, case.keys)
        yield Server("SeaweedFS", server.environment())


async def _upload(bucket: Path, keys: Sequence[str]) -> None:
    async with s3dlio.open_store(f"s3://{bucket.name}") as store:
        for key in keys:
            await store.put(key, (bucket / key).read_bytes())
