"""What is wrong, and how to mend it, by the error that one request gave. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ..errors import (
    BucketNotFoundError,
    ConfigError,
    ConnectionFailedError,
    NoCredentialsError,
    NotFoundError,
    PermissionDeniedError,
    ProxyError,
    StallError,
    StoreError,
    WrongRegionError,
)

State = Literal["ok", "note", "failed"]


class Finding(NamedTuple):
    """What was found out of one thing, and `mend`, which says how to have it otherwise."""

    about: str
    state: State
    found: str
    mend: str = ""


class Way(NamedTuple):
    """How the request went: what names the credentials of its kind of store, and whether a proxy leads there."""

    scheme: str
    proxy: str | None = None
    region: str | None = None


_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for public data, S3DLIO_ANONYMOUS=1",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`; "
    "for public data, S3DLIO_ANONYMOUS=1",
    "az": "set AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_CONNECTION_STRING, or run `az login`"
    " with s3dlio[azure] installed; for public data, S3DLIO_ANONYMOUS=1",
}
_CLOCK = "set this machine's clock (`timedatectl set-ntp true`): services bear 15 minutes"
_BY_CODE = {
    "RequestTimeTooSkewed": ("clock", "the clock of this machine is off", _CLOCK),
    "SignatureDoesNotMatch": ("secret", "the secret key is not that of the access key", "correct the secret key"),
    "InvalidAccessKeyId": (
        "access key",
        "the service does not know the access key",
        "correct the access key, or the endpoint: keys of one service mean nothing to another",
    ),
    "AuthenticationFailed": ("secret", "the account's key or token is wrong, or the clock is off", "correct the key"),
    "ExpiredToken": ("session token", "the credentials have expired", "fetch new ones"),
    "InvalidToken": ("session token", "the session token is not valid", "correct or unset AWS_SESSION_TOKEN"),
    "AuthorizationHeaderMalformed": ("region", "the request was signed for another region", "set AWS_REGION"),
    "PermanentRedirect": ("region", "the bucket is in another region", "set AWS_REGION"),
}
_REGION = (301, 307, 400)


def of_error(error: StoreError, way: Way) -> Finding:
    """The cause that `error` shows."""
    if error.code in _BY_CODE:
        about, found, mend = _BY_CODE[error.code]
        return Finding(about, "failed", found, mend)
    match error:
        case ProxyError():
            return Finding("proxy", "failed", f"the proxy {way.proxy} is in the way: {error}", _proxy(way))
        case ConnectionFailedError() if "certificate" in error.message:
            return Finding("certificates", "failed", error.message, "name the authority: S3DLIO_CA_BUNDLE=/path/ca.pem")
        case ConnectionFailedError() | StallError():
            mend = "is it up, and is the port right? correct the endpoint, or start it"
            return Finding("endpoint", "failed", str(error), f"{mend}; {_proxy(way)}" if way.proxy else mend)
        case NoCredentialsError():
            return Finding("credentials", "failed", error.message, _CREDENTIALS.get(way.scheme, ""))
        case WrongRegionError():
            mend = f"set AWS_REGION={error.region}" if error.region else "set AWS_REGION to the bucket's"
            return Finding("region", "failed", error.message, mend)
        case BucketNotFoundError():
            return Finding("bucket", "failed", "there is no such bucket, container or directory", "correct the name")
        case NotFoundError():
            return Finding("object", "failed", "there is no such object", "correct the key, or look with `s3dlio ls`")
        case PermissionDeniedError():
            return Finding(
                "permission", "failed", str(error), "the credentials are not allowed this: ask for the right"
            )
        case ConfigError():
            return Finding("settings", "failed", error.message, "correct the setting")
    return Finding("request", "failed", str(error), "see docs/reliability.md")


def _proxy(way: Way) -> str:
    return "to go without the proxy for this server, name it in NO_PROXY, or set S3DLIO_PROXY=none"


def of_success(attempts: Sequence[Mapping[str, Any]], way: Way) -> list[Finding]:
    """What had to be corrected on the way to the answer; the `attempts` are those that a hook is told of."""
    if way.scheme == "s3" and any(each["status"] in _REGION for each in attempts):
        found = f"the bucket is not in {way.region or 'the default region'}: each process asks twice to find out"
        return [Finding("region", "note", found, "set AWS_REGION to the bucket's")]
    if any(each["mended"] for each in attempts):
        return [Finding("clock", "note", "the request was refused until it was signed by the server's time", _CLOCK)]
    return []


def of_torch(version: str | None) -> Finding:
    """Whether what trains is there."""
    if version is None:
        mend = "pip install 's3dlio[torch]': only data sets and checkpoints need it"
        return Finding("torch", "note", "not installed", mend)
    return Finding("torch", "ok", version)
