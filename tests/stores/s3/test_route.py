"""Which host a bucket is asked for at, and that neither its name nor a region can make it another one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.config import Addressing
from s3dlio.errors import ConfigError, InvalidUriError
from s3dlio.stores.s3.route import check_bucket, check_region, regional_endpoint, route

HOSTILE = [
    *("evil.com/#", "evil.com", "us-east-1.evil.com", "a/b", "a@b", "a:b", "a?b", "a#b", "a b", "a\r\nb", "a\n", "\0"),
    *("", "-", "us-east-1-", "-us", "US-EAST-1", "us_east_1", "\N{FULLWIDTH LATIN SMALL LETTER A}", "a" * 65),
]


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
    ],
)
def test_routes(bucket: str, endpoint: str | None, addressing: Addressing, expected: str) -> None:
    place = route(bucket, "eu-west-1", endpoint, addressing)
    assert f"{place.endpoint} {place.endpoint.prefix}{place.path}/" == expected
    assert place.region == "eu-west-1"


def test_china_has_a_domain_of_its_own() -> None:
    assert route("data", "cn-north-1", None, "path").endpoint.host == "s3.cn-north-1.amazonaws.com.cn"


@pytest.mark.parametrize("region", HOSTILE)
def test_hostile_regions(region: str) -> None:
    with pytest.raises(ConfigError):
        check_region(region)
    with pytest.raises(ConfigError):
        route("data", region, None, "auto")
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
    assert place.path in ("", f"/{bucket}")


def test_where_another_region_is_asked() -> None:
    assert regional_endpoint(None, "eu-west-1") is None
    assert regional_endpoint("https://s3.us-east-1.amazonaws.com", "eu-west-1") is None
    assert regional_endpoint("http://minio:9000", "eu-west-1") == "http://minio:9000"
