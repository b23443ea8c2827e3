"""Google's token services on loopback, and the files that lead to them."""

from __future__ import annotations

import base64
import json
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from s3dlio.auth.google import SCOPE

from ..servers.loopback import Handler, listening

EMAIL = "trainer@project.iam.gserviceaccount.com"


@cache
def private_key() -> rsa.RSAPrivateKey:
    """One key for all tests: making one takes a while."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@cache
def private_pem() -> str:
    """It, as key files hold it."""
    form = serialization.PrivateFormat.PKCS8
    return private_key().private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


@dataclass
class TokenService:
    """Hands out numbered tokens: to who signs for them, as Google's token endpoint, or as the metadata server.

    `now` is the clock that lifetimes are counted from, `status` and `body` an answer to give instead.
    """

    url: str
    now: Callable[[], float] = time.time
    lifetime: float = 3600.0
    issued: int = 0
    status: int = 200
    body: bytes | None = None
    flavor: str = "Google"
    requests: list[tuple[str, str]] = field(default_factory=list)

    @property
    def token(self) -> str:
        """The last one that was given out."""
        return f"canary-token-{self.issued}"

    def answer(self, method: str, path: str, flavor: str | None, body: bytes) -> tuple[int, bytes]:
        self.requests.append((method, path))
        if self.status != 200 or self.body is not None:
            return self.status, self.body or b""
        if path == "/token":
            check_assertion(body)
        else:
            assert (method, path) == ("GET", "/computeMetadata/v1/instance/service-accounts/default/token")
            assert flavor == "Google"
        self.issued += 1
        expires_in = self.now() + self.lifetime - time.time()
        answer = {"access_token": self.token, "expires_in": round(expires_in), "token_type": "Bearer"}
        return 200, json.dumps(answer).encode()


def check_assertion(body: bytes) -> None:
    """RFC 7523: a JWT signed with RS256 by the account's own key, for our scope. Google wants its own URL as `aud`."""
    form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
    assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
    head, claims, signature = (_decoded(part) for part in form["assertion"].split("."))
    signed = form["assertion"].rpartition(".")[0].encode()
    private_key().public_key().verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
    said: dict[str, Any] = json.loads(claims)
    assert json.loads(head)["alg"] == "RS256"
    assert (said["iss"], said["scope"]) == (EMAIL, SCOPE)
    assert 0 < said["exp"] - said["iat"] <= 3600


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


@contextmanager
def token_service(tls: ssl.SSLContext | None = None) -> Iterator[TokenService]:
    """It, while the block runs."""

    class Tokens(Handler):
        def _answer(self) -> None:
            status, content = service.answer(self.command, self.path, self.headers.get("metadata-flavor"), self.body())
            self.answer(status, content, {"content-type": "application/json", "metadata-flavor": service.flavor})

        do_GET = do_POST = _answer

    with listening(Tokens, tls) as url:
        service = TokenService(url)
        yield service


def write_key_file(path: Path, token_uri: str, **other: object) -> Path:
    """A service account's key file; `other` fields replace its own."""
    account = {
        "type": "service_account",
        "project_id": "project",
        "private_key_id": "id",
        "private_key": private_pem(),
        "client_email": EMAIL,
        "token_uri": token_uri,
    }
    path.write_text(json.dumps(account | other))
    return path
