"""What the environment says of who is asking."""

from __future__ import annotations

import os

_ENVIRONMENT = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_CONNECTION_STRING",
    "GOOGLE_APPLICATION_CREDENTIALS",
)


def environment_mark() -> int:
    """A number that changes when the credentials in the environment do. It tells nothing of them."""
    return hash(tuple(map(os.environ.get, _ENVIRONMENT)))


def variable(name: str) -> str:
    """Without the line end that a secret read from a file often has."""
    return os.environ.get(name, "").strip()
