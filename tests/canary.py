"""What tests have for secrets, and what nobody is told: it is watched for in every log line and in every error.

Azurite's key is public. It is a secret all the same.
"""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Iterator
from urllib.parse import quote

from s3dlio.errors import StoreError

CANARY = "cAnArY0123456789"
"""A part of every secret that tests make up, but for tokens that a server of theirs counts: `canary-token-1`."""

AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

_DERIVED = r"Signature=[0-9a-f]|SharedKey \w+:|Bearer \w|Basic \w|\bsig=\w"
"""What lets a reader act as well."""


def _encoded(text: str) -> Iterator[str]:
    """What is always there in the base64 of anything that has `text` in it."""
    for before in range(3):
        whole = base64.b64encode(b"?" * before + text.encode()).decode()
        yield whole[4 * (before > 0) : -4].strip("=")


_SPELLINGS = [CANARY, "canary-token", *_encoded(CANARY), AZURITE_KEY, quote(AZURITE_KEY, safe="")]
TOLD = re.compile("|".join([*map(re.escape, _SPELLINGS), _DERIVED]))


class Watch(logging.Handler):
    """Looks through what s3dlio logs, at DEBUG, and what its errors say."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._told: list[str] = []

    def look(self, text: str) -> None:
        """Remember `text` if it tells a secret."""
        if TOLD.search(text):
            self._told.append(text)

    def emit(self, record: logging.LogRecord) -> None:
        """A line with its traceback, as it would be written."""
        self.look(self.format(record))

    def check(self) -> None:
        """Errors: `AssertionError` where a secret was told since the last time."""
        told, self._told = self._told, []
        assert not told, f"told to whoever reads logs or errors: {told}"


def watch_errors(watch: Watch) -> None:
    """Have `watch` look at every error of s3dlio that is made from now on."""
    init = StoreError.__init__

    def watched(self: StoreError, *arguments: object) -> None:
        init(self, *arguments)  # type: ignore[arg-type]
        watch.look(f"{self} {self!r}")

    setattr(StoreError, "__init__", watched)  # noqa: B010
