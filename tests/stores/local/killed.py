"""A program that writes files and kills itself: `python -m tests.stores.local.killed FOLDER`, a line of JSON a run.

A run is `[seed, scheme, verb]`. A child is forked that overwrites `FOLDER/key` in a loop, by turns with two contents,
and is killed by SIGKILL, either while it executes a line of the stores (the line is chosen by the seed) or by its
parent, from outside, some moments later. The answer is one line: how the child ended.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from itertools import cycle
from types import FrameType
from typing import Any

import trio

from s3dlio.config import Config
from s3dlio.model import PutOptions
from s3dlio.stores.local.direct import DirectStore
from s3dlio.stores.local.store import LocalStore

OLD, NEW = b"o" * (5 << 18) + b"old", b"n" * (5 << 18) + b"new"
"""Of two blocks, the last of them not whole."""

_LINES = 400
_LONGEST = 0.02


async def write_for_ever(folder: str, scheme: str, verb: str) -> None:
    kind: Callable[..., LocalStore] = DirectStore if scheme == "direct" else LocalStore
    store = kind(folder, Config(durable="none", parts_in_flight=2))
    for data in cycle((NEW, OLD)):
        if verb == "put":
            await store.put("key", data)
        elif verb == "create":
            await store.delete("key")
            await store.put("key", data, PutOptions(if_none_match=True))
        elif verb == "copy":
            await store.put("source", data)
            await store.copy("source", "key")
        else:
            upload = await store.create_upload("key")
            last = await store.upload_part(upload, 2, data[1 << 20 :])
            first = await store.upload_part(upload, 1, data[: 1 << 20])
            await store.complete_upload(upload, [first, last])


def die_at(line: int) -> None:
    """Kill this process when the stores' code has come to its `line`-th line, in whatever thread."""
    left = line

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if "/s3dlio/stores/" not in frame.f_code.co_filename and "/s3dlio/alignment/" not in frame.f_code.co_filename:
            return None
        left -= event == "line"
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    threading.settrace(trace)
    sys.settrace(trace)


def run(folder: str, seed: int, scheme: str, verb: str) -> int:
    """The child's exit status."""
    chance = random.Random(seed)
    from_outside = chance.random() < 0.5
    child = os.fork()
    if child == 0:
        if not from_outside:
            die_at(chance.randrange(1, _LINES))
        trio.run(write_for_ever, folder, scheme, verb)
    if from_outside:
        time.sleep(chance.random() * _LONGEST)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


if __name__ == "__main__":
    for line in sys.stdin:
        print(run(sys.argv[1], *json.loads(line)), flush=True)
