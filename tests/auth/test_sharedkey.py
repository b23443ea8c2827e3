"""Shared Key against Microsoft's own signer."""

from __future__ import annotations

import base64
import pickle

import pytest
from azure.core.pipeline import PipelineContext, PipelineRequest
from azure.core.pipeline.transport import HttpRequest
from azure.storage.blob._shared.authentication import SharedKeyCredentialPolicy, _storage_header_sort
from hypothesis import example, given
from hypothesis import strategies as st

from s3dlio.auth.sharedkey import SharedKey, decode_key, header_order, sign, string_to_sign
from s3dlio.errors import ConfigError, InvalidKeyError
from s3dlio.transport.http1 import quote_path, quote_query

CANARY = base64.b64encode(b"a canary that nobody may see").decode()
KEY = SharedKey("account", base64.b64decode(CANARY))
NOW = 1_700_000_000.5
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"

_TOKENS = "abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~"
_VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20).map(str.strip)
_STANDARD = st.sampled_from(
    [
        *("content-encoding", "content-language", "content-length", "content-md5", "content-type", "date"),
        *("if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range", "host", "user-agent"),
    ]
)
_NAMED = st.text(_TOKENS, min_size=1, max_size=12).map(lambda name: f"x-ms-{name}").filter("x-ms-date".__ne__)
_QUERIES = st.dictionaries(
    st.sampled_from(["comp", "restype", "blockid", "prefix", "delimiter", "marker", "comp-x", "compx"]),
    st.text(max_size=8),
)


def by_microsoft(method: str, path: str, query: str, headers: dict[str, str]) -> str:
    """The Authorization header of azure-storage-blob, which looks for the range under a name of its own."""
    theirs = {name if name != "range" else "byte_range": value for name, value in headers.items()}
    url = f"https://account.blob.core.windows.net{path}" + (f"?{query}" if query else "")
    request = HttpRequest(method, url, theirs | {"x-ms-date": DATE})
    SharedKeyCredentialPolicy("account", CANARY).on_request(PipelineRequest(request, PipelineContext(None)))
    return request.headers["Authorization"]


@given(
    st.sampled_from(["GET", "HEAD", "PUT", "DELETE"]),
    st.text(max_size=20),
    _QUERIES,
    st.dictionaries(_STANDARD | _NAMED, _VALUES),
)
@example("GET", "a b/ü+%", {"prefix": "a+b &=/", "comp": "list"}, {"range": "bytes=0-9", "if-match": '"0x8D"'})
@example("PUT", "k", {"comp": "block", "blockid": "+/=="}, {"content-length": "0", "content-type": "text/plain"})
def test_it_signs_as_microsoft_does(method: str, key: str, query: dict[str, str], headers: dict[str, str]) -> None:
    target = {"path": f"/container/{quote_path(key)}", "query": quote_query(list(query.items()))}
    added = sign(method=method, headers=headers, credentials=KEY, now=NOW, **target)
    assert added["x-ms-date"] == DATE
    assert added["authorization"] == by_microsoft(method, target["path"], target["query"], headers)


@given(st.lists(st.text(_TOKENS, min_size=1, max_size=6).map(lambda name: f"x-ms-{name}"), unique=True))
@example(["x-ms-a-b", "x-ms-ab", "x-ms-a_b", "x-ms-a1", "x-ms-a", "x-ms-a--b", "x-ms-ab-", "x-ms-a'b"])
def test_headers_are_in_the_services_order(names: list[str]) -> None:
    theirs = [name for name, _ in _storage_header_sort([(name, "") for name in names])]
    assert list(header_order(tuple(names))) == theirs


def test_what_is_signed() -> None:
    headers = {
        "x-ms-version": " 2021-12-02\t",
        "content-length": "0",
        "range": "bytes=0-9",
        "host": "h",
        "x-ms-meta-a": "",
    }
    query = "restype=container&comp=list&prefix=a%2Fb"
    text = string_to_sign(method="GET", path="/account/c%20d", query=query, headers=headers, account="account")
    assert text == (
        "GET\n\n\n\n\n\n\n\n\n\n\nbytes=0-9\nx-ms-meta-a:\nx-ms-version:2021-12-02\n"
        "/account/account/c%20d\ncomp:list\nprefix:a/b\nrestype:container"
    )


def test_what_cannot_be_signed() -> None:
    with pytest.raises(InvalidKeyError, match="quote"):
        sign(method="GET", path="/ü", query="", headers={}, credentials=KEY, now=NOW)
    with pytest.raises(ConfigError, match="control"):
        sign(method="GET", path="/", query="", headers={"x-ms-meta-a": "1\r\n2"}, credentials=KEY, now=NOW)


@pytest.mark.parametrize("text", ["not base64!", "", "YQ", "YQ==\n YQ=="])
def test_a_key_that_is_none_is_named_by_its_source(text: str) -> None:
    with pytest.raises(ConfigError, match="in SOURCE is not base64") as caught:
        decode_key(text, "SOURCE")
    assert not text or text not in str(caught.value)


def test_a_key_shows_nothing_and_stays() -> None:
    assert repr(KEY) == "SharedKey(account='account')"
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(KEY)
