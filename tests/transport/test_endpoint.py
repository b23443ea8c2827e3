"""Endpoints: every spelling means one host, and a bad one is refused without being repeated where it holds a secret."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.errors import ConfigError
from s3dlio.transport.endpoint import Endpoint, parse_endpoint


@pytest.mark.parametrize(
    ("url", "host", "port", "authority", "prefix"),
    [
        ("http://example.com", "example.com", 80, "example.com", ""),
        ("https://example.com", "example.com", 443, "example.com", ""),
        ("https://example.com:443/", "example.com", 443, "example.com", ""),
        ("http://example.com:443", "example.com", 443, "example.com:443", ""),
        ("HTTP://Example.COM:9000/", "example.com", 9000, "example.com:9000", ""),
        ("http://[::1]:9000", "::1", 9000, "[::1]:9000", ""),
        ("https://[2001:db8::1]", "2001:db8::1", 443, "[2001:db8::1]", ""),
        ("http://127.0.0.1:8333/s3//", "127.0.0.1", 8333, "127.0.0.1:8333", "/s3"),
        ("http://minio_1:9000/a/b%20c/", "minio_1", 9000, "minio_1:9000", "/a/b%20c"),
        (" http://a.example. \n", "a.example.", 80, "a.example.", ""),
        ("http://xn--mller-kva.example", "xn--mller-kva.example", 80, "xn--mller-kva.example", ""),
    ],
)
def test_spellings(url: str, host: str, port: int, authority: str, prefix: str) -> None:
    endpoint = parse_endpoint(url)
    assert (endpoint.host, endpoint.port, endpoint.authority, endpoint.prefix) == (host, port, authority, prefix)
    assert parse_endpoint(str(endpoint)) == endpoint
    assert endpoint.tls is url.strip().lower().startswith("https")


@pytest.mark.parametrize(
    "url",
    [
        *("", "example.com", "example.com:9000", "//example.com", "ftp://example.com", "s3://bucket", "http://"),
        *(
            "http://:9000",
            "http:///path",
            "http://h:port",
            "http://h:70000",
            "http://h:-1",
            "http://h:0",
            "http://[::1",
        ),
        *("http://::1", "http://[h]", "http://[::1%eth0]", "http://h?x=1", "http://h#x", "http://h/a b", "http://a b"),
        *("http://h\0", "http://h\\x", "http://h%2e", "http://-", "http://\N{SNOWMAN}", "http://h/\N{SNOWMAN}"),
        "http://h/a\x7f",
    ],
)
def test_what_is_no_endpoint(url: str) -> None:
    with pytest.raises(ConfigError, match="endpoint"):
        parse_endpoint(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:canary@example.com",
        "https://canary@example.com",
        "ftp://user:canary@example.com",
        "https://user:canary@example.com:port",
        "https://user:can/canary@example.com",
        "https://AKID:123/canary@example.com",
        "https://user:canary@[::1",
    ],
)
def test_credentials_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_endpoint(url)
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_names_under_localhost_are_this_host() -> None:
    endpoint = Endpoint("http", "bucket.s3.localhost", 8333)
    assert (endpoint.address, endpoint.authority) == ("localhost", "bucket.s3.localhost:8333")
    assert Endpoint("http", "notlocalhost", 80).address == "notlocalhost"


@given(st.text(max_size=30))
def test_any_text_is_an_endpoint_or_an_error(rest: str) -> None:
    try:
        endpoint = parse_endpoint(f"http://{rest}")
    except ConfigError:
        return
    head = f"GET {endpoint.prefix}/key HTTP/1.1\r\nhost: {endpoint.authority}\r\n".encode("ascii")
    assert head.count(b" ") == 3
    assert head.count(b"\r\n") == 2
