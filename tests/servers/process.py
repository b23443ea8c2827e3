"""Server processes: free ports, a start that waits for the first answer, a stop that ends only what was started.

A port is free when it is picked and may be taken when the server binds it; such a server exits at once, which is a
:class:`ServerExitedError`, and the caller picks again.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

HOST = "127.0.0.1"
START_LIMIT = 60.0

CLOUD_VARIABLES = (
    "AWS_",
    "AZURE_",
    "GOOGLE_",
    "GCE_",
    "NO_GCE_CHECK",
    "CLOUDSDK_",
    "STORAGE_EMULATOR_HOST",
    "S3DLIO_",
    "S3_",
)


LIFELINE = 'exec 3<&0; "$@" 3<&- & server=$!; { read -r _ <&3; kill -9 0; } & exec 3<&-; wait $server'
"""Shell text that runs a server until standard input ends, as it does however the process that holds it dies.

It leads a group of its own, all of which is killed then.
"""


class ServerExitedError(RuntimeError):
    """The server ended before it answered."""


def free_ports(count: int) -> list[int]:
    """`count` different ports that nothing listens on at this moment."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [probe.getsockname()[1] for probe in probes]


def keep_port(host: str = HOST, port: int = 0) -> socket.socket:
    """A socket that keeps `port`, or a free one, from everybody else, also while its server is down.

    Who shares addresses (SO_REUSEADDR), as servers do, may listen on it, and end, and listen again.
    """
    kept = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind((host, port))
    return kept


def executable(name: str) -> str:
    """Path of a program: beside this interpreter first, then on the search path."""
    beside = Path(sysconfig.get_path("scripts")) / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is not installed; `make test` and `make demo` install it")
    return found


def without_cloud_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` without the variables that name somebody's cloud account."""
    return {name: value for name, value in environment.items() if not name.startswith(CLOUD_VARIABLES)}


@contextlib.contextmanager
def running(
    command: Sequence[str],
    port: int,
    log: Path,
    environment: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> Iterator[None]:
    """Run a server until the block ends, which begins when `GET /` on `port` is answered with less than 500.

    With `tls` it is asked by https.

    Errors: `ServerExitedError` or `TimeoutError`, both with the end of the server's log.
    """
    clean = without_cloud_variables(os.environ) | dict(environment or {})
    with log.open("wb") as output:
        process = subprocess.Popen(
            ("sh", "-c", LIFELINE, "sh", *command),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=clean,
            start_new_session=True,
        )
    try:
        _wait_for_answer(process, port, log, tls)
        yield
    finally:
        _kill(process)


def _wait_for_answer(process: subprocess.Popen[bytes], port: int, log: Path, tls: ssl.SSLContext | None) -> None:
    deadline = time.monotonic() + START_LIMIT
    while not _answers(port, tls):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no answer on port {port} within {START_LIMIT:.0f} s\n{_tail(log)}")
        time.sleep(0.02)
        if process.poll() is not None:
            break
    if process.poll() is not None:
        raise ServerExitedError(f"the server exited with {process.returncode}\n{_tail(log)}")


def _answers(port: int, tls: ssl.SSLContext | None) -> bool:
    if tls is None:
        connection = http.client.HTTPConnection(HOST, port, timeout=2)
    else:
        connection = http.client.HTTPSConnection(HOST, port, timeout=2, context=tls)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and what it started. At once: its data is temporary, and a polite stop takes seconds."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _tail(log: Path, size: int = 4000) -> str:
    return log.read_text(errors="replace")[-size:]
