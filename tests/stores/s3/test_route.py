"""Which host a bucket is asked for at, and that neither its name nor a region can make it another one."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import pytest
from botocore.endpoint_provider import EndpointProvider
from botocore.exceptions import EndpointProviderError
from botocore.loaders import Loader
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.config import Addressing
from s3dlio.errors import ConfigError, InvalidUriError
from s3dlio.stores.s3.route import Variant, check_bucket, check_region, regional_endpoint, route

UNSPEAKABLE = ["", "a/b", "a b", "a,b", "a\r\nb", "a\n", "\0", "r\xe9gion", "a" * 129, "evil.com/#"]
"""What no header may say of a region."""

HOSTILE = [
    *("evil.com", "us-east-1.evil.com", "a@b", "a:b", "a?b", "a#b", "-", "us-east-1-", "-us", "US-EAST-1", "us_east_1"),
    *("\N{FULLWIDTH LATIN SMALL LETTER A}", "a" * 65, *UNSPEAKABLE),
]
"""What may not become part of a host's name."""


@pytest.mark.parametrize(
    ("bucket", "endpoint", "addressing", "expected"),
    [
        ("data", None, "auto", "https://data.s3.eu-west-1.amazonaws.com /"),
        ("data", None, "path", "https://s3.eu-west-1.amazonaws.com /data/"),
        ("my.data", None, "auto", "https://s3.eu-west-1.amazonaws.com /my.data/"),
        ("my.data", None, "virtual", "https://s3.eu-west-1.amazonaws.com /my.data/"),
        ("Upper_Case", None, "auto", "https://s3.eu-west-1.amazonaws.com /Upper_Case/"),
        ("data", "http://s3.amazonaws.com", "auto", "http://data.s3.amazonaws.com /"),
        ("my.data", "http://s3.amazonaws.com", "auto", "http://my.data.s3.amazonaws.com /"),
        ("data", "http://minio:9000", "auto", "http://minio:9000 /data/"),
        ("data", "http://minio:9000", "virtual", "http://data.minio:9000 /"),
        ("data", "http://minio:9000/s3/", "auto", "http://minio:9000/s3 /s3/data/"),
        ("data", "http://127.0.0.1:9000", "virtual", "http://127.0.0.1:9000 /data/"),
        ("data", "http://[::1]:9000", "virtual", "http://[::1]:9000 /data/"),
        ("tenant:data", "http://minio:9000", "auto", "http://minio:9000 /tenant%3Adata/"),
    ],
)
def test_routes(bucket: str, endpoint: str | None, addressing: Addressing, expected: str) -> None:
    place = route(bucket, "eu-west-1", endpoint, addressing)
    assert f"{place.endpoint} {place.endpoint.prefix}{place.path}/" == expected
    assert place.region == "eu-west-1"


@cache
def rules() -> EndpointProvider:
    loader = Loader()
    return EndpointProvider(loader.load_service_model("s3", "endpoint-rule-set-1"), loader.load_data("partitions"))


@cache
def known_regions() -> list[str]:
    partitions = Loader().load_data("partitions")["partitions"]
    named = {region for partition in partitions for region in partition["regions"]}
    return sorted(region for region in named if not region.endswith("-global"))


def as_botocore(bucket: str, region: str, variant: Variant, *, path_style: bool) -> tuple[str, str] | None:
    """Where botocore goes, and the region that it signs for."""
    asked: dict[str, Any] = {
        "Bucket": bucket,
        "Region": region,
        "ForcePathStyle": path_style,
        "UseGlobalEndpoint": False,
    }
    asked |= {"UseFIPS": variant.fips, "UseDualStack": variant.dualstack, "Accelerate": variant.accelerate}
    try:
        found = rules().resolve_endpoint(**asked)
    except EndpointProviderError:
        return None
    return found.url, found.properties["authSchemes"][0]["signingRegion"]


def as_we_do(bucket: str, region: str, variant: Variant, addressing: Addressing) -> tuple[str, str] | None:
    try:
        place = route(bucket, region, None, addressing, variant)
    except ConfigError:
        return None
    assert place.aws
    return f"{place.endpoint}{place.path}", place.region


NEW_REGIONS = st.from_regex(
    r"(us|eu|ap|cn|us-gov|us-iso|us-isob|eu-isoe|us-isof|eusc-de|eusc|xy)-(north|southeast|west2)-[0-9]{1,2}",
    fullmatch=True,
)
BUCKETS = st.from_regex(
    r"[a-z0-9][a-z0-9.-]{0,64}[a-z0-9]|[a-zA-Z0-9][A-Z:_]{2}|[0-9]{1,3}(\.[0-9]{1,3}){3}", fullmatch=True
)


@pytest.mark.parametrize("region", known_regions())
def test_every_region_is_found_where_botocore_finds_it(region: str) -> None:
    for flags in product([False, True], repeat=3):
        variant = Variant(*flags)
        assert as_we_do("data", region, variant, "auto") == as_botocore("data", region, variant, path_style=False)


@given(
    BUCKETS.filter(lambda name: ".." not in name and not name.endswith(("--x-s3", "-s3alias"))),
    st.one_of(st.sampled_from(known_regions()), NEW_REGIONS),
    st.builds(Variant, st.booleans(), st.booleans(), st.booleans()),
    st.sampled_from(["auto", "virtual", "path"]),
)
def test_aws_is_found_where_botocore_finds_it(
    bucket: str, region: str, variant: Variant, addressing: Addressing
) -> None:
    path_style = addressing == "path" and not variant.accelerate
    theirs = as_botocore(bucket, region, variant, path_style=path_style)
    assert as_we_do(bucket, region, variant, addressing) == theirs


def test_old_names_of_regions() -> None:
    assert route("data", "aws-global", None, "path") == route("data", "us-east-1", None, "path")
    for name in ("fips-us-gov-west-1", "us-gov-west-1-fips"):
        place = route("data", name, None, "path")
        assert (place.endpoint.host, place.region) == ("s3-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1")


def test_ones_own_endpoint_is_asked_whatever_the_variant() -> None:
    place = route("data", "us-east-1", "https://minio", "auto", Variant(fips=True, dualstack=True))
    assert (str(place.endpoint), place.aws) == ("https://minio", False)
    with pytest.raises(ConfigError, match="cannot be combined with an endpoint"):
        route("data", "us-east-1", "https://minio", "auto", Variant(accelerate=True))


@pytest.mark.parametrize("region", HOSTILE)
def test_hostile_regions(region: str) -> None:
    with pytest.raises(ConfigError):
        check_region(region)
    for endpoint in (None, "https://s3.us-east-1.amazonaws.com"):
        with pytest.raises(ConfigError):
            route("data", region, endpoint, "auto")
    with pytest.raises(ConfigError):
        regional_endpoint("https://s3-fips.us-east-1.amazonaws.com", region)


@pytest.mark.parametrize("region", ["RegionOne", "GRA", "zh_CN", "default", "evil.com", ".."])
def test_elsewhere_a_region_is_any_name(region: str) -> None:
    assert route("data", region, "http://minio:9000", "auto").region == region
    assert regional_endpoint("http://minio:9000", region) == "http://minio:9000"


@pytest.mark.parametrize("region", UNSPEAKABLE)
def test_a_region_is_what_a_header_can_say(region: str) -> None:
    with pytest.raises(ConfigError):
        route("data", region, "http://minio:9000", "auto")
    with pytest.raises(ConfigError):
        regional_endpoint("http://minio:9000", region)


@pytest.mark.parametrize(
    "bucket",
    [
        "",
        ".",
        "..",
        "a/b",
        "a..b",
        "a?b",
        "a#b",
        "a%2fb",
        "a b",
        "a\r\n",
        "a\n",
        ".a",
        "a.",
        "-a",
        "\N{SNOWMAN}",
        "a" * 256,
    ],
)
def test_hostile_buckets(bucket: str) -> None:
    with pytest.raises(InvalidUriError):
        check_bucket(bucket)


@given(st.text(min_size=1, max_size=20), st.sampled_from([None, "http://minio:9000"]))
def test_a_bucket_stays_inside_its_host(bucket: str, endpoint: str | None) -> None:
    try:
        place = route(check_bucket(bucket), "us-east-1", endpoint, "virtual")
    except InvalidUriError:
        return
    home = "minio" if endpoint else "s3.us-east-1.amazonaws.com"
    assert place.endpoint.host in (home, f"{bucket}.{home}")
    assert place.path in ("", f"/{bucket.replace(':', '%3A')}")


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        (None, None),
        ("https://s3.us-east-1.amazonaws.com", "https://s3.eu-west-1.amazonaws.com"),
        ("http://s3.amazonaws.com", "http://s3.eu-west-1.amazonaws.com"),
        ("https://s3-us-west-2.amazonaws.com", "https://s3.eu-west-1.amazonaws.com"),
        ("https://s3-fips.dualstack.us-east-1.amazonaws.com", "https://s3-fips.dualstack.eu-west-1.amazonaws.com"),
        ("https://s3-accelerate.amazonaws.com", "https://s3-accelerate.amazonaws.com"),
        ("https://s3.eusc-de-east-1.amazonaws.eu", "https://s3.eu-west-1.amazonaws.com"),
        ("http://minio:9000", "http://minio:9000"),
    ],
)
def test_where_another_region_is_asked(endpoint: str | None, expected: str | None) -> None:
    assert regional_endpoint(endpoint, "eu-west-1") == expected
