"""No secret in what may be shown, logged, raised or pickled."""

from __future__ import annotations

import json
import logging
import pickle
import traceback

import pytest

from s3dlio.auth.aws import aws_credentials, aws_profile
from s3dlio.auth.sigv4 import EMPTY_SHA256, PAYLOAD_HASH, Credentials, CredentialsProvider, SigV4Signer
from s3dlio.config import Config
from s3dlio.errors import ConfigError, NoCredentialsError, StoreError

from ..canary import CANARY
from .conftest import Issuer, WriteFiles
from .fakes import FakeService

KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": CANARY,
    "AWS_SESSION_TOKEN": f"token{CANARY}",
}


def full_story(error: BaseException) -> str:
    """What a crash reporter sends: the error, all it came from, and every local variable on the way.

    The frames of this module's tests are left out: they have to know the secret.
    """
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    pending, seen = [told], []
    while pending:
        part = pending.pop()
        part.stack = traceback.StackSummary.from_list([f for f in part.stack if f.filename != __file__])
        seen.append("".join(part.format(chain=False)))
        pending += [nearer for nearer in (part.__cause__, part.__context__) if nearer is not None]
    inside = vars(error.__cause__) if error.__cause__ else {}
    return "".join([*seen, repr(error), repr(error.__cause__), repr(inside), pickle.dumps(error).decode("latin-1")])


async def caught_from(provider: CredentialsProvider) -> StoreError:
    with pytest.raises(StoreError) as caught:
        await provider.get()
    return caught.value


async def test_reprs_and_pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    provider = aws_credentials(Config())
    signer = SigV4Signer(provider, "r")
    await signer.sign("GET", "/", "", {"host": "h", PAYLOAD_HASH: EMPTY_SHA256})
    for thing in (await provider.get(), provider, signer, vars(provider), vars(signer)):
        assert CANARY not in f"{thing!r} {thing!s}"
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(thing)


async def test_refreshing_providers(container: FakeService, issuer: Issuer) -> None:
    provider = aws_credentials(Config())
    await provider.get()
    assert "AKID" not in repr(vars(provider))
    assert "secret-1" not in repr(vars(provider))
    with pytest.raises((TypeError, NotImplementedError)):
        pickle.dumps(provider)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AWS_ACCESS_KEY_ID", f"{CANARY}\nx"),
        ("AWS_SESSION_TOKEN", f"{CANARY}\0"),
        ("AWS_SESSION_TOKEN", f"{CANARY}\udc80"),
    ],
)
def test_keys_that_no_header_can_hold(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setattr("os.environ", KEYS | {variable: value})
    with pytest.raises(ConfigError) as caught:
        aws_credentials(Config())
    assert CANARY not in full_story(caught.value)


async def test_a_request_that_cannot_be_signed() -> None:
    class Provider:
        async def get(self) -> Credentials:
            return Credentials("AKID", CANARY, CANARY)

        async def refresh(self, rejected: Credentials) -> bool:
            return False

    signer = SigV4Signer(Provider(), "r")
    headers = {"host": "h", PAYLOAD_HASH: EMPTY_SHA256}
    await signer.sign("GET", "/", "", headers)
    headers["x-amz-meta-a"] = "a\nb"
    with pytest.raises(ConfigError) as caught:
        await signer.sign("GET", "/", "", headers)
    assert CANARY not in full_story(caught.value)


@pytest.mark.parametrize("missing", ["Token", "Expiration", "Everything"])
async def test_a_container_whose_answer_is_incomplete(container: FakeService, issuer: Issuer, missing: str) -> None:
    full = {"AccessKeyId": CANARY, "SecretAccessKey": CANARY, "Token": CANARY, "Expiration": "2100-01-01T00:00:00Z"}
    full.pop(missing, None)
    issuer.body = json.dumps(full) if missing != "Everything" else json.dumps(full)[:-1]
    assert CANARY not in full_story(await caught_from(aws_credentials(Config())))


@pytest.mark.parametrize(
    "printed", [f"{{'SecretAccessKey': '{CANARY}'", f'{{"Version": 2, "SecretAccessKey": "{CANARY}"}}']
)
async def test_a_process_whose_answer_is_unusable(write_files: WriteFiles, printed: str) -> None:
    write_files(f"[default]\ncredential_process = printf %s {json.dumps(printed)}\n", "")
    assert CANARY not in full_story(await caught_from(aws_credentials(Config())))


@pytest.mark.parametrize("damage", ["[default\n", "aws_secret_access_key\n"])
async def test_a_file_that_cannot_be_parsed(write_files: WriteFiles, damage: str) -> None:
    write_files("", f"[default]\naws_access_key_id = AKID\naws_secret_access_key = {CANARY}\n{CANARY}\n{damage}")
    assert CANARY not in full_story(await caught_from(aws_credentials(Config())))
    with pytest.raises(ConfigError) as caught:
        aws_profile(Config(profile="default"))
    assert CANARY not in full_story(caught.value)


async def test_an_unknown_profile_beside_known_ones(write_files: WriteFiles) -> None:
    write_files("", f"[other]\naws_access_key_id = AKID\naws_secret_access_key = {CANARY}\n")
    assert CANARY not in full_story(await caught_from(aws_credentials(Config(profile="absent"))))
    with pytest.raises(NoCredentialsError) as caught:
        aws_profile(Config(profile="absent"))
    assert CANARY not in full_story(caught.value)


async def test_our_logs_at_debug(
    write_files: WriteFiles, container: FakeService, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    level = logging.getLogger("botocore").level
    with caplog.at_level(logging.DEBUG, "s3dlio"):
        provider = aws_credentials(Config())
        first = await provider.get()
        assert first is not None
        await SigV4Signer(provider, "r").sign("GET", "/", "", {"host": "h", PAYLOAD_HASH: EMPTY_SHA256})
        issuer.body = json.dumps({"SecretAccessKey": "secret-1"})
        with pytest.raises(StoreError):
            await provider.refresh(first)
    ours = [record for record in caplog.records if record.name.startswith("s3dlio")]
    assert ours
    assert not [record for record in ours if "secret-1" in record.getMessage() or "token-1" in record.getMessage()]
    assert logging.getLogger("botocore").level == level == logging.NOTSET
