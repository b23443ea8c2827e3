"""What a URI means, from text to host and path."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.auth.azure import AzureAccount
from s3dlio.errors import ConfigError, InvalidKeyError, InvalidUriError
from s3dlio.stores.azure.route import Address, check_name, is_azure, parse_address, route, split_uri
from s3dlio.transport.endpoint import parse_endpoint

ABFSS = "data@lake.dfs.core.windows.net"


@pytest.mark.parametrize(
    ("rest", "account", "expected"),
    [
        ("container/a/b", "acct", ("container", "a/b")),
        ("container", "acct", ("container", "")),
        ("container/", "acct", ("container", "")),
        ("container//a?b#c%20", "acct", ("container", "/a?b#c%20")),
        ("acct/container/a/b", None, ("acct/container", "a/b")),
        ("acct/container", None, ("acct/container", "")),
        (f"{ABFSS}/a/b", None, (ABFSS, "a/b")),
        (f"{ABFSS}/a/b", "acct", (ABFSS, "a/b")),
    ],
)
def test_a_uri_is_split_by_what_the_environment_names(
    rest: str, account: str | None, expected: tuple[str, str]
) -> None:
    assert split_uri(rest, account) == expected


@pytest.mark.parametrize("rest", ["container", "container/", "acct//key"])
def test_without_an_account_the_uri_must_name_one(rest: str) -> None:
    with pytest.raises(InvalidUriError, match="AZURE_STORAGE_ACCOUNT_NAME"):
        split_uri(rest, None)


@pytest.mark.parametrize(
    ("bucket", "address"),
    [
        ("container", Address("container")),
        ("$root", Address("$root")),
        ("acct/my-container-1", Address("my-container-1", "acct")),
        (ABFSS, Address("data", "lake", "lake.blob.core.windows.net")),
        ("data@lake.blob.core.windows.net", Address("data", "lake", "lake.blob.core.windows.net")),
        ("data@lake.dfs.core.chinacloudapi.cn", Address("data", "lake", "lake.blob.core.chinacloudapi.cn")),
        ("data@lake.z01.dfs.storage.azure.net", Address("data", "lake", "lake.z01.blob.storage.azure.net")),
    ],
)
def test_three_spellings_of_a_place(bucket: str, address: Address) -> None:
    assert parse_address(bucket) == address


@pytest.mark.parametrize(
    "bucket",
    [
        *(
            "",
            "a",
            "ab",
            "UPPER",
            "under_score",
            "two--hyphens",
            "-first",
            "last-",
            "x" * 64,
            "a.b.c",
            "..",
            "a?b",
            "a\nb",
        ),
        *("/container", "Acct/container", "acct/", "a/b/container", "evil.example/container", "acct@container"),
        *("data@lake.dfs.core.windows.net.example", "data@evil.example", "data@lake.dfs.example", "data@", f"@{ABFSS}"),
        *("data@u@lake.dfs.core.windows.net", "data@.dfs.core.windows.net", "data@lake.dfs.core.windows.net:80"),
    ],
)
def test_what_is_no_place(bucket: str) -> None:
    with pytest.raises(InvalidUriError):
        parse_address(bucket)


@pytest.mark.parametrize("bucket", ["data/file.txt", "my_data/train", "data/Train"])
def test_a_container_taken_for_an_account_is_told(bucket: str) -> None:
    with pytest.raises(InvalidUriError, match="AZURE_STORAGE_ACCOUNT_NAME is not set"):
        parse_address(bucket)


@pytest.mark.parametrize(
    ("bucket", "account", "in_uri"),
    [
        ("acct/con", None, True),
        ("acct/con", "acct", False),
        ("con", "acct", False),
        (ABFSS, None, False),
    ],
)
def test_whose_word_the_account_is(bucket: str, account: str | None, in_uri: bool) -> None:
    assert route(parse_address(bucket), AzureAccount(account)).account_in_uri is in_uri


@pytest.mark.parametrize(
    ("bucket", "account", "url"),
    [
        ("con", AzureAccount("acct"), "https://acct.blob.core.windows.net/con/k"),
        ("$web", AzureAccount("acct"), "https://acct.blob.core.windows.net/%24web/k"),
        ("acct/con", AzureAccount(), "https://acct.blob.core.windows.net/con/k"),
        ("acct/con", AzureAccount("acct", key=b"k"), "https://acct.blob.core.windows.net/con/k"),
        ("other/con", AzureAccount("acct"), "https://other.blob.core.windows.net/con/k"),
        (ABFSS, AzureAccount(), "https://lake.blob.core.windows.net/data/k"),
        (ABFSS, AzureAccount("lake", "https://lake.privatelink.example/"), "https://lake.privatelink.example/data/k"),
        ("con", AzureAccount("acct", "http://127.0.0.1:10000/acct"), "http://127.0.0.1:10000/acct/con/k"),
        ("con", AzureAccount("acct", "http://127.0.0.1:10000"), "http://127.0.0.1:10000/acct/con/k"),
        ("acct/con", AzureAccount(None, "http://azurite:10000"), "http://azurite:10000/acct/con/k"),
        ("acct/con", AzureAccount(None, "http://[::1]:10000"), "http://[::1]:10000/acct/con/k"),
        ("con", AzureAccount(None, "https://blobs.example"), "https://blobs.example/con/k"),
        ("con", AzureAccount("acct", "https://blobs.example"), "https://blobs.example/con/k"),
    ],
)
def test_the_way_to_a_container(bucket: str, account: AzureAccount, url: str) -> None:
    place = route(parse_address(bucket), account)
    assert place.url(f"{place.path}/k") == url


@pytest.mark.parametrize(
    "account",
    [AzureAccount("acct", key=b"k"), AzureAccount("acct", sas="sig=s"), AzureAccount("acct", "https://acct.example")],
)
@pytest.mark.parametrize("bucket", ["other/con", ABFSS])
def test_credentials_of_one_account_are_not_used_for_another(bucket: str, account: AzureAccount) -> None:
    with pytest.raises(ConfigError, match="'acct'") as caught:
        route(parse_address(bucket), account)
    assert "other" in str(caught.value) or "lake" in str(caught.value)


@pytest.mark.parametrize("name", [None, "", "evil.example/", "a b", "acct:80"])
def test_an_account_name_cannot_become_another_host(name: str | None) -> None:
    with pytest.raises(ConfigError, match="AZURE_STORAGE_ACCOUNT_NAME"):
        route(parse_address("con"), AzureAccount(name))


@given(st.text())
def test_any_text_is_a_place_at_azure_or_refused(text: str) -> None:
    try:
        place = route(parse_address(text), AzureAccount("acct"))
    except InvalidUriError:
        return
    assert place.endpoint.host.endswith(".blob.core.windows.net")
    assert place.path.count("/") == 1


@pytest.mark.parametrize("key", [".", "..", "a/..", "./a", "a/./b", "back\\slash", "", "\ud800", "k" * 1025])
def test_names_that_lead_elsewhere_are_refused(key: str) -> None:
    with pytest.raises(InvalidKeyError):
        check_name(key)


@pytest.mark.parametrize("key", ["a", "...", "a.", ".a/b..", "a//b", "/a", "a/", "é?#%20"])
def test_other_names_are_not(key: str) -> None:
    assert check_name(key) == key


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("https://account.blob.core.windows.net", True),
        ("https://account.z12.blob.storage.azure.net", True),
        ("https://core.windows.net.example.org", False),
        ("https://notcore.windows.net", False),
        ("http://127.0.0.1:10000", False),
    ],
)
def test_which_hosts_are_of_azure(endpoint: str, expected: bool) -> None:
    assert is_azure(parse_endpoint(endpoint)) == expected
