"""An S3 server that makes up a listing of any length, and counts what it is asked for, in a thread of this process."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import overload
from urllib.parse import parse_qs, urlsplit

PREFIX, PAGE = "train/", 1000


class Keys(Sequence[str]):
    """`train/0000000000.jpg` and so on."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[number] for number in range(*i.indices(self._count))]
        return f"{PREFIX}{i:010}.jpg"


def page_of(keys: Keys, after: str) -> bytes:
    """The answer to ListObjectsV2: the keys that come after `after`."""
    start = bisect_right(keys, after)
    shown = keys[start : start + PAGE]
    more = start + PAGE < len(keys)
    entries = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2026-11-23T01:02:03.000Z</LastModified>"
        f'<ETag>"{number:032x}"</ETag><Size>{100_000 + number % 50_000}</Size></Contents>'
        for number, key in enumerate(shown, start)
    )
    token = f"<NextContinuationToken>{shown[-1]}</NextContinuationToken>" if more else ""
    told = f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{entries}"
    return f"<ListBucketResult>{told}</ListBucketResult>".encode()


@contextmanager
def listing_of(count: int, *, latency: float = 0) -> Iterator[tuple[str, Counter[str]]]:
    """The endpoint of a server whose buckets have `count` keys, and how often it was asked: `pages`, `others`.

    A page comes after `latency` seconds.
    """
    keys, asked = Keys(count), Counter[str]()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
            is_page = query.get("list-type") == "2"
            asked["pages" if is_page else "others"] += 1
            time.sleep(latency)
            after = query.get("continuation-token", query.get("start-after", ""))
            self._answer(200, page_of(keys, after)) if is_page else self._answer(404, b"")

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
