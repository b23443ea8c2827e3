"""A program that ends in mid-transfer: `python -m tests.transport.leaving end|exit|interrupt`.

Threads read, write and iterate through the portal, the main one too where it is interrupted. It says when all of them
have begun. Its argument says how it ends: by its last line, `sys.exit(5)`, or SIGINT, of which it makes an exit with 6.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

import s3dlio
from s3dlio.blocking.prefetch import Want
from s3dlio.blocking.readahead import ReadAhead
from s3dlio.blocking.store import BlockingStore
from s3dlio.errors import StoreError
from s3dlio.transport.pump_code import wait_for_code
from s3dlio.urls import parse_uri

from ..servers.bad_network import BUCKET, LARGE, SMALL, WHEN_LEAVING, content

_URI = f"s3://{BUCKET}"


def read() -> None:
    s3dlio.get(f"{_URI}/{LARGE[2]}")


def write() -> None:
    s3dlio.put(f"{_URI}/{WHEN_LEAVING}", content(WHEN_LEAVING))


def iterate() -> None:
    store = BlockingStore(parse_uri(_URI), s3dlio.Config())
    ahead = ReadAhead(Want(store, key) for key in SMALL)
    for position, _ in ahead:
        ahead.body(position)


def go_on(work: Callable[[], None], begun: threading.Semaphore) -> None:
    """Do it again and again, however it ends."""
    begun.release()
    while True:
        with suppress(StoreError):
            work()


def main(how: str) -> None:
    """See the module's text."""
    logging.getLogger("s3dlio").setLevel(logging.ERROR)  # that an attempt failed is no news here
    wait_for_code(120)
    begun = threading.Semaphore(0)
    workers = (read, write, iterate, read)
    for work in workers:
        threading.Thread(target=go_on, args=(work, begun), daemon=True).start()
    for _ in workers:
        begun.acquire()
    with suppress(StoreError):
        read()
    print("under way", flush=True)
    if how == "exit":
        sys.exit(5)
    if how == "interrupt":
        try:
            go_on(read, begun)
        except KeyboardInterrupt:
            sys.exit(6)


if __name__ == "__main__":
    main(sys.argv[1])
