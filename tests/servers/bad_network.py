"""S3 behind a bad network: `python -m tests.servers.bad_network SEED ENDPOINTS [KEY_AND_CERTIFICATE]`.

It prints its endpoints, and serves till standard input ends. Several have the same objects and uploads, and each is
killed and started again, time and again.

Two requests in three are answered as they should be, the others as one of :data:`FAULTS` says. What an object holds
follows from its key, so that whoever reads knows what must come, and it knows what must be sent.
"""

from __future__ import annotations

import functools
import json
import random
import ssl
import sys
import zlib
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

import trio

from .clouds import WritableS3
from .faults import HONEST, NOTHING, Asked, Fault, Truth, etag_of, fault_server, ranged, refusal

BUCKET = "bucket"
STATE = f"/{BUCKET}/-state-"
"""Where it tells what is left of uploads, and what was wrong with what came."""

POISON = b"\xa5"
"""What fills memory that has gone back. Nobody sends so much of it as is looked for."""

SMALL = [f"small/{number}-{size}" for number in range(16) for size in (0, 1, 100, 5_000, 100_000, 260_000)]
LARGE = [f"large/{number}-{size}" for number, size in enumerate((1_100_000, 2_500_000, 4_700_000, 6_000_001))]
WHEN_LEAVING = "leaving/0-11000000"
"""What a program writes that ends meanwhile: that it aborts the upload cannot be relied on."""

_HONEST = 2 / 3
_EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: </>; rel=preload\r\n\r\n"
_SLOW_DOWN = refusal(503, "SlowDown")


@functools.cache
def content(key: str) -> bytes:
    """What the object holds whose name ends in its size: any bytes but :data:`POISON`."""
    size = int(key.rpartition("-")[2])
    return random.Random(key).randbytes(size).replace(POISON, b"\xa4")


def some(chance: random.Random) -> int:
    """So many bytes: a few, or a lot."""
    return int(10 ** chance.uniform(0, 6.5))


_ANY: list[Callable[[random.Random], Fault]] = [
    lambda chance: Fault(delay=chance.uniform(0, 0.1)),
    lambda chance: Fault(interim=_EARLY_HINTS * chance.randint(1, 3)),
    lambda chance: Fault(cut=NOTHING, reset=chance.random() < 0.5),
    lambda chance: Fault(cut=some(chance), reset=chance.random() < 0.5),
    lambda chance: Fault(hang_up=True, reset=chance.random() < 0.5),
    lambda chance: Fault(headers={"connection": "close"}, hang_up=True),
    lambda chance: replace(_SLOW_DOWN, hang_up=chance.random() < 0.5),
    lambda chance: refusal(500, "InternalError"),
    lambda chance: Fault(stall=NOTHING),
]
CORRUPT = Fault(interim=_EARLY_HINTS)
"""One bit of a whole object is wrong, which its checksum tells; ranges have none."""

FAULTS: Mapping[str, list[Callable[[random.Random], Fault]]] = {
    "GET": [
        *_ANY,
        lambda chance: Fault(stall=some(chance)),
        lambda chance: Fault(pace=(1000 + some(chance), chance.uniform(0, 0.01))),
        lambda chance: Fault(chunk=10 + some(chance)),
        lambda chance: Fault(chunk=1000 + some(chance), cut=some(chance)),
        lambda chance: Fault(lie=some(chance), cut=1 << 40),
        lambda chance: Fault(lie=-some(chance)),
        lambda chance: Fault(raw=b"\x15\x03\x01 no answer at all\r\n\r\n"),
        lambda chance: Fault(headers={"etag": '"another version"'}),
        lambda chance: CORRUPT,
    ],
    "PUT": [
        *_ANY,
        lambda chance: replace(_SLOW_DOWN, refuse_after=some(chance)),
        lambda chance: replace(_SLOW_DOWN, early=True, reset=chance.random() < 0.5),
        lambda chance: Fault(sip=(1000 + some(chance), 0.001), hints=chance.choice([b"", _EARLY_HINTS])),
        lambda chance: Fault(proceed=None),
    ],
}
"""How requests go wrong, by their method; each says how, given chance."""


class BadNetwork(WritableS3):
    """Objects to read, and room for writes, which are compared with what their keys stand for and forgotten."""

    def __init__(self, seed: str, networks: list[BadNetwork], endpoint: str) -> None:
        super().__init__(endpoint)
        networks.append(self)
        first, self._networks = networks[0], networks
        self.objects = {f"/{BUCKET}/{key}": content(key) for key in (*SMALL, *LARGE)}
        self._headers = {path: _headers(data) for path, data in self.objects.items()}
        self.uploads, self.described = first.uploads, first.described
        self.begun = self._first_upload = len(networks) * 1_000_000
        self._chance = random.Random(f"{seed}-{len(networks)}")
        self._wrong: list[str] = []
        self._served = 0

    async def live_and_die(self) -> None:
        """Be killed at random. Uploads that had only just begun, of which nobody may know, are forgotten."""
        while True:
            await trio.sleep(self._chance.expovariate(1))
            for upload in range(self._first_upload + 1, self.begun + 1):
                if not self.uploads.get(f"upload-{upload}", ("", {0: b""}))[1]:
                    del self.uploads[f"upload-{upload}"]
            self._first_upload = self.begun
            await self.be_down(self._chance.expovariate(2))

    def next_fault(self, method: str, target: str) -> Fault:
        chance, self._served = self._chance, self._served + 1
        if target.startswith(STATE) or (method == "DELETE" and "uploadId" in target):
            return HONEST
        if method == "POST":  # what begins or ends an upload is not left in doubt, as that would be left open
            return chance.choice([HONEST, HONEST, _SLOW_DOWN, Fault(delay=chance.uniform(0, 0.1))])
        if chance.random() < _HONEST:
            return HONEST
        return chance.choice(FAULTS.get(method, _ANY))(chance)

    def heard(self, data: bytes | bytearray) -> None:
        if POISON * 8 in data:
            self._wrong.append("memory was sent that had gone back")

    def answer(self, asked: Asked, fault: Fault) -> Truth:
        self.requests.clear()
        if fault.status is not None:
            return Truth(fault.status)
        if asked.target.startswith(STATE):
            return Truth(200, {}, json.dumps(self._state).encode())
        truth = super().answer(asked, fault)
        for written in self.objects.keys() - self._headers.keys():
            self._compare(written, self.objects.pop(written))
        is_object = asked.target.partition("?")[0] in self._headers
        return self._corrupted(truth) if is_object and fault is CORRUPT else truth

    def _get(self, path: str, heard: Mapping[str, str]) -> Truth:
        if path not in self._headers:  # it was written, and is forgotten
            return super()._get(path, heard)
        return ranged(self.objects[path], self._headers[path], heard)

    def _corrupted(self, truth: Truth) -> Truth:
        if truth.status != 200 or not truth.body:
            return truth
        place = self._chance.randrange(len(truth.body))
        flipped = bytes([truth.body[place] ^ 1])
        return replace(truth, body=truth.body[:place] + flipped + truth.body[place + 1 :])

    def _compare(self, path: str, data: bytes) -> None:
        key = path.removeprefix(f"/{BUCKET}/")
        if data != content.__wrapped__(key):
            self._wrong.append(f"{key} was written as {len(data)} other bytes: {data[:20].hex()}")

    @property
    def _state(self) -> dict[str, object]:
        open_uploads = [path for path, _ in self.uploads.values() if not path.endswith(WHEN_LEAVING)]
        served = sum(network._served for network in self._networks)
        wrong = [line for network in self._networks for line in network._wrong]
        return {"served": served, "uploads": open_uploads, "wrong": wrong}


def _headers(data: bytes) -> dict[str, str]:
    value = b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
    return {"etag": etag_of(data), "x-amz-checksum-crc32": value, "x-amz-checksum-type": "FULL_OBJECT"}


async def main(*arguments: str) -> None:
    """Serve till standard input ends."""
    seed, endpoints, *certificate = arguments
    tls = None
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*certificate)
    networks: list[BadNetwork] = []
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        for _ in range(int(endpoints)):
            await stack.enter_async_context(fault_server(tls=tls, kind=partial(BadNetwork, seed, networks)))
        if len(networks) > 1:
            for network in networks:
                nursery.start_soon(network.live_and_die)
        print(",".join(network.endpoint for network in networks), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
