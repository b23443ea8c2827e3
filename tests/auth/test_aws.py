"""Where credentials are found: with real files, and with the services of AWS faked on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

from s3dlio.auth.aws import (
    ProfileSettings,
    aws_credentials,
    aws_profile,
)
from s3dlio.auth.refreshing import ADVISORY, SharedCredentials
from s3dlio.auth.sigv4 import Credentials, CredentialsProvider
from s3dlio.config import Config
from s3dlio.errors import ConfigError, NoCredentialsError, PermissionDeniedError, ProfileNotFoundError
from s3dlio.stores.s3.store import S3Store

from .conftest import Issuer, WriteFiles
from .fakes import FakeService, hence

FILE = """
[default]
aws_access_key_id = AKIDDEFAULT
aws_secret_access_key = default-secret

[other]
aws_access_key_id = AKIDOTHER
aws_secret_access_key = other-secret
aws_session_token = other-token
"""


def export(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


async def found(config: Config | None = None) -> Credentials:
    credentials = await aws_credentials(config or Config()).get()
    assert credentials is not None
    return credentials


async def refreshed(provider: CredentialsProvider) -> Credentials:
    rejected = await provider.get()
    assert rejected is not None
    assert await provider.refresh(rejected)
    renewed = await provider.get()
    assert renewed is not None
    return renewed


async def test_keys_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    export(monkeypatch, AWS_ACCESS_KEY_ID="AKIDENV", AWS_SECRET_ACCESS_KEY="s")
    assert await found() == Credentials("AKIDENV", "s")
    export(monkeypatch, AWS_SESSION_TOKEN="t\n", AWS_SECRET_ACCESS_KEY="s\n")
    assert await found() == Credentials("AKIDENV", "s", "t")


async def test_the_environment_is_read_at_construction(monkeypatch: pytest.MonkeyPatch) -> None:
    export(monkeypatch, AWS_ACCESS_KEY_ID="AKID1", AWS_SECRET_ACCESS_KEY="s")
    provider = aws_credentials(Config())
    export(monkeypatch, AWS_ACCESS_KEY_ID="AKID2")
    first = await provider.get()
    assert first == Credentials("AKID1", "s")
    assert not await provider.refresh(first)
    assert await found() == Credentials("AKID2", "s")


async def test_keys_in_the_environment_that_expire_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    export(monkeypatch, AWS_ACCESS_KEY_ID="AKID1", AWS_SECRET_ACCESS_KEY="s", AWS_SESSION_TOKEN="t")
    export(monkeypatch, AWS_CREDENTIAL_EXPIRATION=hence(1800))
    provider = aws_credentials(Config())
    first = await provider.get()
    assert first == Credentials("AKID1", "s", "t")
    assert first.expires_at == pytest.approx(time.time() + 1800, abs=60)
    export(monkeypatch, AWS_ACCESS_KEY_ID="AKID2", AWS_CREDENTIAL_EXPIRATION=hence(3600))
    assert await refreshed(provider) == Credentials("AKID2", "s", "t")


def test_keys_that_no_header_can_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    export(monkeypatch, AWS_ACCESS_KEY_ID="AKID", AWS_SECRET_ACCESS_KEY="s", AWS_SESSION_TOKEN="a\r\nb")
    with pytest.raises(ConfigError, match="control character"):
        aws_credentials(Config())


@pytest.mark.parametrize("variable", ["AWS_NO_SIGN_REQUEST", "AWS_SKIP_SIGNATURE", "S3DLIO_ANONYMOUS"])
async def test_a_variable_asks_for_anonymous_access(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    export(monkeypatch, AWS_ACCESS_KEY_ID="AKID", AWS_SECRET_ACCESS_KEY="s", **{variable: "false"})
    assert await found() == Credentials("AKID", "s")
    export(monkeypatch, **{variable: "true"})
    assert await aws_credentials(Config()).get() is None


async def test_anonymous_means_nobody_even_where_there_are_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    export(monkeypatch, AWS_ACCESS_KEY_ID="AKID", AWS_SECRET_ACCESS_KEY="s")
    provider = aws_credentials(Config(anonymous=True))
    assert await provider.get() is None
    assert not await provider.refresh(Credentials("a", "b"))


LEAN = """
import sys, trio
from s3dlio.auth.aws import aws_credentials, aws_profile
from s3dlio.auth.sigv4 import SigV4Signer
from s3dlio.config import Config
headers = {"host": "h", "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
trio.run(SigV4Signer(aws_credentials(Config()), "r").sign, "GET", "/", "", headers)
aws_profile(Config())
print("authorization" in headers, any(name.split(".")[0] == "botocore" for name in sys.modules))
"""


def test_the_environment_alone_needs_no_botocore(monkeypatch: pytest.MonkeyPatch) -> None:
    export(monkeypatch, AWS_ACCESS_KEY_ID="AKID", AWS_SECRET_ACCESS_KEY="s")
    ran = subprocess.run([sys.executable, "-c", LEAN], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["True", "False"]


async def test_the_default_profile(write_files: WriteFiles) -> None:
    write_files("", FILE)
    assert await found() == Credentials("AKIDDEFAULT", "default-secret")


async def test_the_profile_of_the_environment(write_files: WriteFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files("", FILE)
    export(monkeypatch, AWS_PROFILE="other")
    assert await found() == Credentials("AKIDOTHER", "other-secret", "other-token")


async def test_a_named_profile_wins_over_keys_in_the_environment(
    write_files: WriteFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files("", FILE)
    export(monkeypatch, AWS_ACCESS_KEY_ID="AKIDENV", AWS_SECRET_ACCESS_KEY="s")
    assert (await found(Config(profile="other"))).access_key == "AKIDOTHER"


async def test_rewritten_files_are_read_again_on_refresh(write_files: WriteFiles) -> None:
    write_files("", FILE)
    provider = aws_credentials(Config(profile="other"))
    assert (await provider.get()) == Credentials("AKIDOTHER", "other-secret", "other-token")
    write_files("", FILE.replace("other-token", "newer-token"))
    assert (await refreshed(provider)).token == "newer-token"


async def test_an_unknown_profile_is_named(write_files: WriteFiles) -> None:
    write_files("", FILE)
    with pytest.raises(ProfileNotFoundError, match=r"no profile 'absent' in .*config and .*credentials") as caught:
        await found(Config(profile="absent"))
    assert isinstance(caught.value, NoCredentialsError)
    with pytest.raises(ProfileNotFoundError, match="no profile 'absent'"):
        aws_profile(Config(profile="absent"))


async def test_a_profile_without_keys_does_not_fall_back_on_anything(
    write_files: WriteFiles, container: FakeService, instance: FakeService
) -> None:
    write_files("[profile bare]\nregion = eu-west-1\n", "")
    with pytest.raises(NoCredentialsError, match="profile 'bare' leads to no credentials"):
        await found(Config(profile="bare"))
    assert container.requests == instance.requests == []


async def test_nothing_found_says_where_it_looked_and_what_to_do() -> None:
    with pytest.raises(NoCredentialsError) as caught:
        await found()
    for part in ("AWS_ACCESS_KEY_ID", "'default'", "container", "metadata (off)", "Config(anonymous=True)"):
        assert part in str(caught.value)
    assert isinstance(caught.value, PermissionError)


async def test_a_metadata_service_without_a_role_is_asked_a_few_times(instance: FakeService, issuer: Issuer) -> None:
    issuer.status = 404
    with pytest.raises(NoCredentialsError, match=r"metadata \(no answer\)"):
        await found()
    assert len(instance.requests) == 6
    assert len(set(instance.requests)) == 3


@pytest.mark.parametrize("status", [503, 500, 429])
async def test_a_metadata_service_that_is_busy_is_asked_again(
    instance: FakeService, issuer: Issuer, status: int
) -> None:
    issuer.refusals = [status, status]
    assert (await found()).access_key == "AKID1"


@pytest.mark.parametrize("source", ["instance", "container"])
async def test_all_stores_of_a_run_share_one_answer(
    request: pytest.FixtureRequest, source: str, issuer: Issuer
) -> None:
    request.getfixturevalue(source)
    stores = [S3Store(f"bucket-{number}", Config()) for number in range(3)]
    for store in stores:
        await store._open()
        assert store._credentials is not None
        assert (await store._credentials.get()) == Credentials("AKID1", "secret-1", "token-1")
    assert issuer.issued == 1


def test_each_run_asks_for_itself(container: FakeService) -> None:
    provider = aws_credentials(Config())
    assert trio.run(provider.get) == Credentials("AKID1", "secret-1", "token-1")
    assert trio.run(aws_credentials(Config()).get) == Credentials("AKID2", "secret-2", "token-2")


async def test_what_is_shared_is_what_would_be_found(
    write_files: WriteFiles, container: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = aws_credentials(Config())
    assert (await first.get()) == Credentials("AKID1", "secret-1", "token-1")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{container.url}/other")
    assert await found() == Credentials("AKID2", "secret-2", "token-2")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{container.url}/task")
    assert await found() == await first.get()
    write_files("", FILE)
    assert await found() == Credentials("AKIDDEFAULT", "default-secret")
    assert await found(Config(profile="other")) == Credentials("AKIDOTHER", "other-secret", "other-token")


async def test_container_credentials_and_their_refresh(container: FakeService, issuer: Issuer) -> None:
    provider = aws_credentials(Config())
    first = await provider.get()
    assert first == Credentials("AKID1", "secret-1", "token-1")
    assert first.expires_at == pytest.approx(time.time() + 3600, abs=60)
    assert await provider.get() is first
    assert await refreshed(provider) == Credentials("AKID2", "secret-2", "token-2")
    assert container.requests == ["GET /task"] * 2


async def test_container_credentials_are_replaced_before_they_expire(container: FakeService, issuer: Issuer) -> None:
    moment = time.time()
    provider = aws_credentials(Config())
    assert isinstance(provider, SharedCredentials)
    provider._find()._clock = lambda: moment
    assert (await provider.get()).access_key == "AKID1"
    moment += 3600
    assert (await provider.get()).access_key == "AKID2"


async def test_instance_credentials(instance: FakeService) -> None:
    credentials = await found()
    assert credentials == Credentials("AKID1", "secret-1", "token-1")
    assert credentials.expires_at is not None
    assert credentials.expires_at - time.time() > ADVISORY
    assert instance.requests[0] == "PUT /latest/api/token"


async def test_a_role_is_assumed_with_the_source_profiles_keys(
    write_files: WriteFiles, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files("[profile job]\nrole_arn = arn:aws:iam::1:role/job\nsource_profile = other\n", FILE)
    export(monkeypatch, AWS_ENDPOINT_URL_STS=service.url, AWS_REGION="eu-north-1")
    provider = aws_credentials(Config(profile="job"))
    assert await provider.get() == Credentials("AKID1", "secret-1", "token-1")
    assert await refreshed(provider) == Credentials("AKID2", "secret-2", "token-2")
    assert service.requests == ["POST /"] * 2


async def test_a_role_that_is_refused(
    write_files: WriteFiles, service: FakeService, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files("[profile job]\nrole_arn = arn:aws:iam::1:role/job\nsource_profile = other\n", FILE)
    export(monkeypatch, AWS_ENDPOINT_URL_STS=service.url, AWS_REGION="eu-north-1")
    issuer.status = 403
    issuer.body = "<ErrorResponse><Error><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>"
    with pytest.raises(PermissionDeniedError, match="AssumeRole answered AccessDenied") as caught:
        await found(Config(profile="job"))
    assert type(caught.value.__cause__).__name__ == "ClientError"


async def test_a_container_that_fails(container: FakeService, issuer: Issuer) -> None:
    issuer.status = 500
    with pytest.raises(PermissionDeniedError, match="CredentialRetrievalError from container-role") as caught:
        await found()
    assert not isinstance(caught.value, NoCredentialsError)
    assert "500" in str(caught.value.__cause__)


async def test_a_token_from_a_service_that_no_header_can_hold(container: FakeService, issuer: Issuer) -> None:
    issuer.body = (
        '{"AccessKeyId": "A", "SecretAccessKey": "s", "Token": "a\\r\\nb", "Expiration": "2100-01-01T00:00:00Z"}'
    )
    with pytest.raises(ConfigError, match="control character"):
        await found()


async def test_partial_keys_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    export(monkeypatch, AWS_ACCESS_KEY_ID="AKID")
    with pytest.raises(PermissionDeniedError, match="missing: AWS_SECRET_ACCESS_KEY"):
        await found()


async def test_a_process_that_prints_credentials(write_files: WriteFiles) -> None:
    program = "import json; print(json.dumps(dict(Version=1, AccessKeyId='AKIDP', SecretAccessKey='s')))"
    write_files(f'[default]\ncredential_process = "{sys.executable}" -c "{program}"\n', "")
    assert await found() == Credentials("AKIDP", "s")


async def test_a_process_that_hangs(write_files: WriteFiles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It waits for the other end of a pipe, which is opened when the test has seen that nobody waits for it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    write_files(f"[default]\ncredential_process = cat {pipe}\n", "")
    monkeypatch.setattr("s3dlio.auth.refreshing.LOAD_LIMIT", 0.2)
    with pytest.raises(PermissionDeniedError, match=r"within 0.2 seconds: the credential_process of the profile"):
        await found()
    pipe.write_text("")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            "[profile a]\nrole_arn = arn:x\nsource_profile = b\n[profile b]\nrole_arn = arn:y\nsource_profile = a\n",
            "Infinite",
        ),
        ("[profile a]\nrole_arn = arn:x\nsource_profile = absent\n", "absent"),
        ("[profile a]\nrole_arn = arn:x\n", "source_profile"),
        ("\ufeff[profile a]\nregion = x\n", "cannot be parsed"),
    ],
    ids=["a loop", "no source", "neither", "a byte order mark"],
)
async def test_profiles_that_lead_nowhere(write_files: WriteFiles, config: str, words: str) -> None:
    write_files(config, "")
    with pytest.raises((PermissionDeniedError, ConfigError), match=words):
        await found(Config(profile="a"))


async def test_expired_credentials_hint_at_the_reason(container: FakeService, issuer: Issuer) -> None:
    issuer.lifetime = -60
    with pytest.raises(PermissionDeniedError, match="still expired"):
        await found()


SETTINGS = """
[default]
region = eu-west-3

[profile lab]
region = eu-central-1
endpoint_url = https://everything.example
ca_bundle = /etc/lab.pem
services = lab-services
s3 =
    addressing_style = path

[services lab-services]
s3 =
    endpoint_url = https://s3.lab.example

[profile odd]
s3 = text
services = text
endpoint_url = https://odd.example

[services text]
s3 = text

[profile lost]
services = absent
endpoint_url = https://lost.example

[profile strict]
use_fips_endpoint = true
use_dualstack_endpoint = false
endpoint_url = https://strict.example
ignore_configured_endpoint_urls = true
s3 =
    use_dualstack_endpoint = true
    use_accelerate_endpoint = False

[profile typo]
use_fips_endpoint = ture
"""


def test_settings_of_a_profile(write_files: WriteFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(SETTINGS, "")
    assert aws_profile(Config()) == ProfileSettings(region="eu-west-3")
    lab = ProfileSettings("eu-central-1", "https://s3.lab.example", "/etc/lab.pem", "path")
    assert aws_profile(Config(profile="lab")) == lab
    assert aws_profile(Config(profile="odd")) == ProfileSettings(endpoint_url="https://odd.example")
    assert aws_profile(Config(profile="strict")) == ProfileSettings(
        use_fips_endpoint=True,
        use_dualstack_endpoint=True,
        use_accelerate_endpoint=False,
        ignore_configured_endpoint_urls=True,
    )
    export(monkeypatch, AWS_PROFILE="lab")
    assert aws_profile(Config()) == lab
    export(monkeypatch, AWS_IGNORE_CONFIGURED_ENDPOINT_URLS="true")
    assert aws_profile(Config()).endpoint_url is None


@pytest.mark.parametrize(
    ("profile", "words"), [("lost", "services section 'absent'"), ("typo", "use_fips_endpoint.*'ture'")]
)
def test_settings_that_cannot_be_meant(write_files: WriteFiles, profile: str, words: str) -> None:
    write_files(SETTINGS, "")
    with pytest.raises(ConfigError, match=words):
        aws_profile(Config(profile=profile))


def test_the_credentials_file_has_settings_too(write_files: WriteFiles, tmp_path: Path) -> None:
    write_files("", "[default]\nregion = eu-west-2\n")
    (tmp_path / "config").unlink()
    assert aws_profile(Config()) == ProfileSettings(region="eu-west-2")


def test_settings_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert aws_profile(Config()) == ProfileSettings()
    export(monkeypatch, AWS_PROFILE="absent")
    assert aws_profile(Config()) == ProfileSettings()
    with pytest.raises(NoCredentialsError, match="'absent'"):
        aws_profile(Config(profile="absent"))


async def test_a_file_that_cannot_be_parsed_is_named(write_files: WriteFiles) -> None:
    write_files("no section\n", "")
    with pytest.raises(ConfigError, match=r"config cannot be parsed"):
        aws_profile(Config())
    with pytest.raises(ConfigError, match=r"config cannot be parsed"):
        await found()
