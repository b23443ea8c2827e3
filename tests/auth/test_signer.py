"""What the transport's signer does after an error answer."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from s3dlio.auth.aws import StaticCredentials
from s3dlio.auth.signer import Signer
from s3dlio.auth.sigv4 import EMPTY_SHA256, PAYLOAD_HASH, Credentials, SigV4Signer, sign
from s3dlio.errors import ConfigError

from .fakes import Clock

UNSIGNED = {"host": "h", PAYLOAD_HASH: EMPTY_SHA256}
OLD = Credentials("AKIDOLD", "old-secret", "old-token")
NEW = Credentials("AKIDNEW", "new-secret")


class Renewable:
    """A provider whose `refresh` swaps `OLD` for `NEW`, once."""

    def __init__(self) -> None:
        self.current = OLD
        self.rejected: list[Credentials] = []

    async def get(self) -> Credentials:
        return self.current

    async def refresh(self, rejected: Credentials) -> bool:
        self.rejected.append(rejected)
        self.current = NEW
        return rejected != NEW


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def provider() -> Renewable:
    return Renewable()


@pytest.fixture
def signer(provider: Renewable, clock: Clock) -> SigV4Signer:
    return SigV4Signer(provider, "eu-west-1", clock)


async def signed(signer: Signer) -> dict[str, str]:
    headers = dict(UNSIGNED)
    await signer.sign("GET", "/k", "", headers)
    return headers


def by_hand(credentials: Credentials, now: float, region: str = "eu-west-1") -> dict[str, str]:
    return UNSIGNED | sign(
        method="GET",
        path="/k",
        query="",
        headers=UNSIGNED,
        credentials=credentials,
        region=region,
        now=now,
    )


def dated(now: float) -> dict[str, str]:
    return {"date": formatdate(now, usegmt=True)}


async def test_it_signs_for_its_region_which_may_change(signer: SigV4Signer, clock: Clock) -> None:
    assert await signed(signer) == by_hand(OLD, clock.now)
    signer.region = "ap-south-2"
    assert await signed(signer) == by_hand(OLD, clock.now, "ap-south-2")


async def test_anonymous_adds_nothing_and_recovers_from_nothing(clock: Clock) -> None:
    signer = SigV4Signer(StaticCredentials(None), "r", clock)
    assert await signed(signer) == {"host": "h"}
    assert not await signer.recover("ExpiredToken", 400, {})
    assert not await signer.recover("RequestTimeTooSkewed", 403, dated(clock.now + 3600))
    with pytest.raises(ConfigError, match="control"):
        await signer.sign("PUT", "/k", "", {"x-amz-meta-a": "1\r\n2"})


@pytest.mark.parametrize("code", ["ExpiredToken", "TokenRefreshRequired", "InvalidToken"])
async def test_refused_credentials_are_renewed(
    signer: SigV4Signer, provider: Renewable, clock: Clock, code: str
) -> None:
    headers = await signed(signer)
    assert await signer.recover(code, 400, {})
    assert provider.rejected == [OLD]
    await signer.sign("GET", "/k", "", headers)
    assert headers == by_hand(NEW, clock.now), "nothing of the old token is left"


async def test_a_refusal_of_a_head_does_not_name_its_reason(provider: Renewable, clock: Clock) -> None:
    """An expired token is answered with 400 and no body: the token may be the reason, where there is one."""
    signer = SigV4Signer(provider, "us-east-1", clock)
    await signed(signer)
    assert await signer.recover(None, 400, {})
    assert provider.rejected == [OLD]


@pytest.mark.parametrize("status", [400, 404])
async def test_a_request_that_is_wrong_for_another_reason_costs_no_credentials(
    provider: Renewable, clock: Clock, status: int
) -> None:
    signer = SigV4Signer(provider, "us-east-1", clock)
    await signed(signer)
    assert not await signer.recover(None, status, {"x-amz-bucket-region": "eu-west-3"})
    assert provider.rejected == []


async def test_late_refusals_of_the_old_ones_do_not_cost_the_new_ones(
    signer: SigV4Signer, provider: Renewable, clock: Clock
) -> None:
    await signed(signer)
    await signer.recover("ExpiredToken", 400, {})
    await signed(signer)
    assert await signer.recover("ExpiredToken", 400, {})
    assert provider.rejected == [OLD]
    clock.now += 301
    assert not await signer.recover("ExpiredToken", 400, {})
    assert provider.rejected == [OLD, NEW]


async def test_static_credentials_cannot_be_renewed() -> None:
    signer = SigV4Signer(StaticCredentials(NEW), "r")
    await signed(signer)
    assert not await signer.recover("ExpiredToken", 400, {})


@pytest.mark.parametrize("off", [3600.0, -3600.0, 7 * 86400.0])
@pytest.mark.parametrize(("code", "status"), [("RequestTimeTooSkewed", 403), (None, 403)])
async def test_the_servers_clock_is_learned_and_kept(
    signer: SigV4Signer, clock: Clock, off: float, code: str | None, status: int
) -> None:
    await signed(signer)
    assert await signer.recover(code, status, dated(clock.now + off))
    clock.now += 1000
    assert await signed(signer) == by_hand(OLD, clock.now + off)


async def test_requests_signed_before_the_clock_was_learned_are_worth_another_try(
    signer: SigV4Signer, clock: Clock
) -> None:
    await signed(signer)
    assert await signer.recover("RequestTimeTooSkewed", 403, dated(clock.now + 3600))
    assert await signer.recover("RequestTimeTooSkewed", 403, dated(clock.now + 3600))
    clock.now += 1000
    assert not await signer.recover("RequestTimeTooSkewed", 403, dated(clock.now + 3600))


async def test_a_local_clock_that_was_put_right_is_trusted_again(signer: SigV4Signer, clock: Clock) -> None:
    await signed(signer)
    await signer.recover("RequestTimeTooSkewed", 403, dated(clock.now + 3600))
    clock.now += 3600
    assert await signer.recover("RequestTimeTooSkewed", 403, dated(clock.now))
    assert await signed(signer) == by_hand(OLD, clock.now)


@pytest.mark.parametrize("headers", [{}, {"date": "yesterday"}, {"date": "Mon, 99 Jan 2024 00:00:00 GMT"}])
async def test_no_usable_date_is_no_help(signer: SigV4Signer, headers: dict[str, str]) -> None:
    await signed(signer)
    assert not await signer.recover("RequestTimeTooSkewed", 403, headers)


@pytest.mark.parametrize(
    ("code", "status"), [("AccessDenied", 403), ("SignatureDoesNotMatch", 403), ("NoSuchKey", 404), (None, 500)]
)
async def test_other_refusals_are_final(
    signer: SigV4Signer, provider: Renewable, clock: Clock, code: str | None, status: int
) -> None:
    await signed(signer)
    assert not await signer.recover(code, status, dated(clock.now + 3600))
    assert provider.rejected == []
    assert await signed(signer) == by_hand(OLD, clock.now)


async def test_a_403_without_a_code_is_final_where_the_clocks_agree(signer: SigV4Signer, clock: Clock) -> None:
    await signed(signer)
    assert not await signer.recover(None, 403, dated(clock.now + 200))
    assert await signed(signer) == by_hand(OLD, clock.now)


def test_its_repr_names_the_region_alone(signer: SigV4Signer) -> None:
    assert repr(signer) == "SigV4Signer(region='eu-west-1')"
