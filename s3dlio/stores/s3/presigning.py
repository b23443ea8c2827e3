"""URLs that say by themselves who may do what: whoever has one may do it, until it expires.

Source: "Authenticating Requests: Using Query Parameters (AWS Signature Version 4)" in the Amazon S3 API Reference.
"""

from __future__ import annotations

import time

from ...auth.sigv4 import UNSIGNED_PAYLOAD, Credentials, CredentialsProvider, signature
from ...errors import ErrorContext, NoCredentialsError, UnsupportedError
from ...transport.http1 import quote_query
from .route import Route

LONGEST = 7 * 24 * 3600
"""Seconds that such a URL can be good for."""


def presigned_url(route: Route, path: str, method: str, *, seconds: int, credentials: Credentials, now: float) -> str:
    """The URL of the object at `path`, below the route's, for `method` until so many seconds after the time `now`."""
    timestamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    scope = f"{timestamp[:8]}/{route.region}/s3/aws4_request"
    asked = [
        ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
        ("X-Amz-Credential", f"{credentials.access_key}/{scope}"),
        ("X-Amz-Date", timestamp),
        ("X-Amz-Expires", str(seconds)),
        ("X-Amz-SignedHeaders", "host"),
    ]
    if credentials.token:
        asked.append(("X-Amz-Security-Token", credentials.token))
    endpoint, query = route.endpoint, quote_query(asked)
    target = f"{endpoint.prefix}{route.path}{path}"
    canonical = f"{method}\n{target}\n{query}\nhost:{endpoint.authority}\n\nhost\n{UNSIGNED_PAYLOAD}"
    signed = signature(canonical, secret=credentials.secret_key, timestamp=timestamp, region=route.region)
    return f"{endpoint.scheme}://{endpoint.authority}{target}?{query}&X-Amz-Signature={signed}"


async def presign(
    route: Route | None, provider: CredentialsProvider | None, path: str, method: str, seconds: int
) -> str:
    """:func:`presigned_url` by the credentials of this moment. Errors: `NoCredentialsError`, `UnsupportedError`."""
    assert route is not None
    assert provider is not None
    if route.express:
        raise UnsupportedError(
            "URLs of directory buckets would last as long as a session alone", ErrorContext("presign")
        )
    if not 0 < seconds <= LONGEST:
        raise ValueError(f"a URL can be good for 1 to {LONGEST} seconds, not {seconds}")
    credentials = await provider.get()
    if credentials is None:
        raise NoCredentialsError("access is anonymous: there is nothing to sign a URL with", ErrorContext("presign"))
    return presigned_url(route, path, method, seconds=seconds, credentials=credentials, now=time.time())
