"""What requests say of the encryption of objects where they are kept.

S3 encrypts with keys of its own (SSE-S3) or of KMS (SSE-KMS), which is said of what is written alone; or with a key
that the customer sends with every request about an object's content (SSE-C) and that S3 forgets afterwards. Such a key
is a secret: it is text that does not show itself, whatever holds it.

Source: "Protecting data with server-side encryption" in the Amazon S3 User Guide, and "Using server-side encryption
with customer-provided keys" there for the operations that want the key.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path

from ...config import Config
from ...errors import ConfigError
from ...transport.endpoint import Endpoint, by_proxy
from ...transport.http1 import SecretText

_SSE = "x-amz-server-side-encryption"
_COPY_SOURCE = "x-amz-copy-source-server-side-encryption"
_KEY_SIZE = 32
_BEGINNINGS = ("PutObject", "CreateMultipartUpload", "CopyObject")
_SESSION = "CreateSession"
"""A directory bucket's session has to be for the encryption that its writes then name."""

_OTHERS = ("GetObject", "HeadObject", "UploadPart", "UploadPartCopy", "CompleteMultipartUpload")
_COPIES = frozenset({"CopyObject", "UploadPartCopy"})


def check_secrecy(config: Config, endpoints: Iterable[Endpoint]) -> None:
    """A key is sent to nobody but who it is for. Errors: `ConfigError` where others could read it on the way."""
    for endpoint in endpoints:
        if config.sse_c_key_file and not by_proxy(endpoint, config.proxy).confidential:
            raise ConfigError(f"a key for encryption is not sent to {endpoint}: everybody on the way could read it")


def encryption_headers(config: Config) -> dict[str, dict[str, str]]:
    """By the names of operations, the headers that each of them gets. Reads the key's file.

    Errors: `ConfigError` for a file that holds no key or cannot be read.
    """
    if config.sse_c_key_file:
        return _with_key(customer_key(config.sse_c_key_file))
    key_id = {f"{_SSE}-aws-kms-key-id": config.sse_kms_key_id} if config.sse_kms_key_id else {}
    sse = config.sse or ("aws:kms" if key_id else None)
    return {operation: {_SSE: sse, **key_id} for operation in (*_BEGINNINGS, _SESSION)} if sse else {}


def _with_key(key: SecretText) -> dict[str, dict[str, str]]:
    own, of_source = _naming(_SSE, key), _naming(_COPY_SOURCE, key)
    alike = dict.fromkeys((*_BEGINNINGS, *_OTHERS), own)
    return alike | dict.fromkeys(_COPIES, own | of_source)


def _naming(prefix: str, key: SecretText) -> dict[str, str]:
    digest = hashlib.md5(base64.b64decode(key), usedforsecurity=False).digest()
    return {
        f"{prefix}-customer-algorithm": "AES256",
        f"{prefix}-customer-key": key,
        f"{prefix}-customer-key-md5": base64.b64encode(digest).decode(),
    }


def customer_key(path: str) -> SecretText:
    """The key of 32 bytes in a file, which holds them as they are or in base64; in base64.

    Errors: `ConfigError`.
    """
    key = _read(path)
    if key is None:
        raise ConfigError(f"sse_c_key_file {path!r} does not hold a key: {_KEY_SIZE} bytes, as they are or in base64")
    return key


def _read(path: str) -> SecretText | None:
    """No error is raised here once the content is known, which would be among the local variables."""
    try:
        found = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"sse_c_key_file {path!r} cannot be read: {error.strerror}") from None
    if len(found) == _KEY_SIZE:
        return SecretText(base64.b64encode(found).decode())
    try:
        decoded = base64.b64decode(found.strip(), validate=True)
    except ValueError:
        return None
    return SecretText(found.strip().decode()) if len(decoded) == _KEY_SIZE else None
