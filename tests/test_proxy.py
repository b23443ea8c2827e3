"""Which proxy is used for which server, and that nobody sees its password."""

from __future__ import annotations

import pickle
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import s3dlio
from s3dlio.config import Config
from s3dlio.errors import ConfigError
from s3dlio.proxy import Proxy, ProxyUrl, is_listed, parse_proxy, proxy_for

from .canary import CANARY
from .transport.test_secrets_in_frames import SIGNATURES, full_story

A, B, C = (Proxy(name, 3128) for name in "abc")


@pytest.mark.parametrize(
    ("variables", "https", "http"),
    [
        ({}, None, None),
        ({"https_proxy": "http://a:3128"}, A, None),
        ({"HTTPS_PROXY": "http://a:3128"}, A, None),
        ({"http_proxy": "http://a:3128"}, None, A),
        ({"HTTP_PROXY": "http://a:3128"}, None, A),
        ({"http_proxy": "http://a:3128", "HTTP_PROXY": "http://b:3128"}, None, A),
        ({"https_proxy": "http://a:3128", "HTTPS_PROXY": "http://b:3128"}, A, None),
        ({"https_proxy": "", "HTTPS_PROXY": "http://b:3128"}, None, None),
        ({"all_proxy": "http://a:3128"}, A, A),
        ({"ALL_PROXY": "http://a:3128", "http_proxy": "http://b:3128"}, A, B),
        ({"all_proxy": "http://c:3128", "ALL_PROXY": "http://b:3128", "HTTPS_PROXY": "http://a:3128"}, A, C),
        ({"HTTP_PROXY": "http://a:3128", "REQUEST_METHOD": "GET"}, None, None),
        ({"http_proxy": "http://a:3128", "REQUEST_METHOD": "GET"}, None, A),
        ({"https_proxy": "http://a:3128", "no_proxy": "server"}, None, None),
        ({"https_proxy": "http://a:3128", "NO_PROXY": "other, server"}, None, None),
        ({"https_proxy": "http://a:3128", "no_proxy": "other", "NO_PROXY": "server"}, A, None),
        ({"https_proxy": "http://a:3128", "no_proxy": "server:80"}, A, None),
        ({"https_proxy": "http://a:3128", "no_proxy": "other *"}, None, None),
    ],
)
def test_the_environment(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], https: Proxy | None, http: Proxy | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_for("https", "server", 443, None) == https
    assert proxy_for("http", "server", 80, None) == http
    assert proxy_for("https", "server", 443, "none") is proxy_for("http", "server", 80, "") is None
    assert proxy_for("https", "server", 443, "http://c:3128") == proxy_for("http", "server", 80, "c:3128") == C


@pytest.mark.parametrize("name", ["https_proxy", "ALL_PROXY"])
def test_a_proxy_of_the_environment_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, f"http://user:{CANARY}@[half")
    with pytest.raises(ConfigError, match=r"^https_proxy or all_proxy must be http://") as caught:
        proxy_for("https", "server", 443, None)
    assert not SIGNATURES.search(full_story(caught.value))


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://host:1", Proxy("host", 1)),
        ("http://host", Proxy("host", 80)),
        ("HTTP://Host:8080/", Proxy("host", 8080)),
        ("host:8080", Proxy("host", 8080)),
        (" host.example\n", Proxy("host.example", 80)),
        ("http://[::1]:8080", Proxy("::1", 8080)),
        ("http://10.0.0.1:8080", Proxy("10.0.0.1", 8080)),
        # RFC 7617 section 2 has the first, and 2.1 the last of these
        ("http://Aladdin:open%20sesame@h", Proxy("h", 80, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")),
        ("Aladdin:open%20sesame@h", Proxy("h", 80, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")),
        ("http://test:123%C2%A3@h", Proxy("h", 80, "Basic dGVzdDoxMjPCow==")),
        ("http://user@h", Proxy("h", 80, "Basic dXNlcjo=")),
        ("", None),
        ("None", None),
    ],
)
def test_a_url(url: str, proxy: Proxy | None) -> None:
    assert parse_proxy(url, "proxy") == proxy
    assert Config(proxy=url).proxy == url


@pytest.mark.parametrize(("host", "shown"), [("h", "http://h:1"), ("::1", "http://[::1]:1")])
def test_how_a_proxy_is_called(host: str, shown: str) -> None:
    assert str(Proxy(host, 1, CANARY)) == shown
    assert CANARY not in repr(Proxy(host, 1, CANARY))


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://",
            "http://:80",
            "http://h:0",
            "http://h:65536",
            "http://h:x",
            "http://h/path",
            "http://h?a",
            "ftp://h",
        ),
        *("http://a b", "http://h#a", "http://\N{SNOWMAN}", "http://h%0a", "http://[::1", "http://h:80:80", "//h"),
    ],
)
@pytest.mark.parametrize("secret", ["", f"user:{CANARY}@", f"{CANARY}:pass/word@", f"user:{CANARY}#@"])
def test_what_is_no_url_of_a_proxy(url: str, secret: str) -> None:
    url = url.replace("//", f"//{secret}", 1)
    with pytest.raises(ConfigError, match=r"^proxy must be http://") as caught:
        Config(proxy=url)
    assert not SIGNATURES.search(full_story(caught.value))


@pytest.mark.parametrize("scheme", ["https", "HTTPS", "socks5", "socks5h", "socks4", "socks4a"])
def test_what_is_not_supported_is_called_so(scheme: str) -> None:
    with pytest.raises(ConfigError, match=f"reached by {scheme.lower()}: only http is supported") as caught:
        Config(proxy=f"{scheme}://user:{CANARY}@host:1080")
    assert not SIGNATURES.search(full_story(caught.value))


# Secrets

URL = f"http://user:{CANARY}@proxy:3128"


def test_a_configuration_shows_no_password_and_is_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Config(proxy=URL)
    assert "'***@proxy:3128'" in repr(made)
    assert CANARY not in repr(made) + repr(vars(made)) + repr(replace(made, part_size=1 << 23))
    copy = pickle.loads(pickle.dumps(made))
    assert (copy, hash(copy), copy.proxy) == (made, hash(made), URL)
    assert CANARY not in repr(copy)
    assert made != Config()
    monkeypatch.setenv("S3DLIO_PROXY", URL)
    assert Config() == made
    assert CANARY not in repr(Config())


@pytest.mark.parametrize("settings", [{"part_size": 0}, {"endpoint": "http://h?q"}, {"no_such_setting": 1}])
def test_an_error_about_another_setting_shows_no_password(settings: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, TypeError)) as caught:
        Config(proxy=URL, **settings)
    with pytest.raises((ConfigError, TypeError)) as caught_later:
        s3dlio.open_store("s3://bucket", proxy=URL, **settings)
    assert not SIGNATURES.search(full_story(caught.value) + full_story(caught_later.value))


def test_an_error_about_a_uri_shows_no_password() -> None:
    with pytest.raises(s3dlio.InvalidUriError) as caught:
        s3dlio.open_store("nothing://bucket", proxy=URL)
    assert not SIGNATURES.search(full_story(caught.value))


@pytest.mark.parametrize("url", ["http://a:b@h:1", "a:b@h", "http://a:b/c@d:e@h:1", "http://a:b#@h?q"])
def test_a_url_with_a_password_is_shown_from_its_host_on(url: str) -> None:
    assert repr(ProxyUrl(url)) == f"'***@h{url.rpartition('@h')[2]}'"
    assert repr(ProxyUrl("http://h:1")) == "'http://h:1'"


# no_proxy

LABELS = st.lists(st.sampled_from(["a", "b", "ab", "example"]), min_size=1, max_size=3)
PORTS = st.sampled_from([80, 443, 9000])
ONLY = st.none() | PORTS


def entry_with(port: int | None, name: str) -> str:
    if port is None:
        return name
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


@given(LABELS, LABELS, st.sampled_from(["", ".", "*."]), ONLY, PORTS, st.booleans(), st.booleans())
@example(["a"], ["a"], "", None, 80, False, True)
def test_a_domain_means_itself_and_what_is_below(
    labels: list[str], listed: list[str], before: str, only: int | None, port: int, upper: bool, dot: bool
) -> None:
    meant = labels[-len(listed) :] == listed and only in (None, port)
    entry = entry_with(only, before + ".".join(listed))
    host = ".".join(labels) + ("." if dot else "")
    assert is_listed(entry.upper() if upper else entry, host, port) is meant
    assert not is_listed(entry, "10.0.0.1", port)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 32), ONLY, PORTS, st.booleans())
def test_a_block_of_ipv4_addresses(
    number: int, other: int, prefix: int, only: int | None, port: int, near: bool
) -> None:
    host = number ^ (other >> prefix) if near else other
    meant = host >> (32 - prefix) == number >> (32 - prefix) and only in (None, port)
    assert is_listed(entry_with(only, f"{IPv4Address(number)}/{prefix}"), str(IPv4Address(host)), port) is meant
    assert is_listed(str(IPv4Address(number)), str(IPv4Address(host)), port) is (host == number)
    assert not is_listed(f"{IPv4Address(number)}/{prefix}", "::1", port)
    assert not is_listed(f"{IPv4Address(number)}/{prefix}", "example", port)


@given(st.integers(0, 2**128 - 1), st.integers(0, 2**128 - 1), st.integers(0, 128), ONLY, PORTS, st.booleans())
def test_a_block_of_ipv6_addresses(
    number: int, other: int, prefix: int, only: int | None, port: int, near: bool
) -> None:
    host = number ^ (other >> prefix) if near else other
    meant = host >> (128 - prefix) == number >> (128 - prefix) and only in (None, port)
    assert is_listed(entry_with(only, f"{IPv6Address(number)}/{prefix}"), str(IPv6Address(host)), port) is meant
    assert is_listed(f"[{IPv6Address(number)}]", str(IPv6Address(host)), port) is (host == number)
    assert is_listed(str(IPv6Address(number)), str(IPv6Address(host)), port) is (host == number)
    assert not is_listed(f"{IPv6Address(number)}/{prefix}", "10.0.0.1", port)


@pytest.mark.parametrize("host", ["example", "10.0.0.1", "::1", "localhost"])
def test_an_asterisk_means_all_and_nothing_means_none(host: str) -> None:
    assert is_listed("*", host, 443)
    assert is_listed("*:443", host, 443)
    assert not is_listed("*:80", host, 443)
    assert not is_listed("", host, 443)
    assert not is_listed(".", host, 443)


def test_this_machine_is_asked_directly_only_where_it_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by boto3 and curl."""
    monkeypatch.setenv("http_proxy", "http://a:3128")
    assert proxy_for("http", "localhost", 80, None) == proxy_for("http", "127.0.0.1", 80, None) == A
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.0/8,::1")
    assert {proxy_for("http", host, 80, None) for host in ("localhost", "127.0.0.2", "::1")} == {None}


@given(st.text(max_size=20), st.text(max_size=20), PORTS)
def test_no_entry_is_an_error(entry: str, host: str, port: int) -> None:
    is_listed(entry, host, port)


@given(st.text(max_size=30))
@example("http://[::1]x")
def test_any_text_is_a_proxy_or_refused(text: str) -> None:
    try:
        proxy = parse_proxy(text, "proxy")
    except ConfigError:
        return
    assert proxy is None or (proxy.host and 0 < proxy.port < 65536)
