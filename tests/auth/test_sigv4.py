"""SigV4 against botocore's signer and against the examples of the S3 documentation."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime
from hashlib import sha256
from unittest import mock

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.auth.signer import check_header
from s3dlio.auth.sigv4 import (
    EMPTY_SHA256,
    PAYLOAD_HASH,
    UNSIGNED_PAYLOAD,
    Credentials,
    sign,
    signature,
    signing_key,
)
from s3dlio.errors import ConfigError, InvalidKeyError
from s3dlio.transport.http1 import quote_path, quote_query

EXAMPLE = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
EXAMPLE_TIME = datetime(2013, 5, 24, tzinfo=UTC).timestamp()
EXAMPLE_HOST = {"host": "examplebucket.s3.amazonaws.com"}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
hostile_keys = texts | st.sampled_from(
    [
        "a b",
        "a+b",
        "a%2fb",
        "../../etc",
        "a//b",
        "/",
        "?x=1",
        "#f",
        "a\r\nHost: evil",
        "\0",
        "naïve/ключ/🔑",
        "~._-",
        ".",
        "%",
    ]
)
words = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12)
header_values = st.just("  two   spaces ") | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30)
signed_headers = st.dictionaries(
    st.sampled_from(["content-type", "content-md5"]) | words.map("x-amz-meta-{}".format), header_values, max_size=5
)
unsigned_headers = st.dictionaries(st.sampled_from(["user-agent", "expect", "transfer-encoding"]), words, max_size=2)
tokens = st.none() | st.text("ABCdef012+/=", min_size=1, max_size=60)


def authorization_of_botocore(
    method: str, url: str, headers: dict[str, str], body: bytes, credentials: Credentials, region: str, moment: datetime
) -> dict[str, str]:
    keys = ReadOnlyCredentials(credentials.access_key, credentials.secret_key, credentials.token)
    request = AWSRequest(method=method, url=url, headers=headers, data=body)
    with mock.patch.object(botocore.auth, "get_current_datetime", return_value=moment):
        botocore.auth.S3SigV4Auth(keys, "s3", region).add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}


@given(
    method=st.sampled_from(["GET", "PUT", "POST", "HEAD", "DELETE"]),
    key=hostile_keys,
    query=st.lists(st.tuples(texts.filter(bool), texts), max_size=4),
    signed=signed_headers,
    unsigned=unsigned_headers,
    body=st.binary(max_size=20),
    token=tokens,
    region=words,
    secret=st.text("abcXYZ0189+/", min_size=1, max_size=50),
    moment=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)).map(lambda t: t.replace(tzinfo=UTC)),
)
def test_signatures_are_those_of_botocore(
    method: str,
    key: str,
    query: list[tuple[str, str]],
    signed: dict[str, str],
    unsigned: dict[str, str],
    body: bytes,
    token: str | None,
    region: str,
    secret: str,
    moment: datetime,
) -> None:
    credentials = Credentials("AKIDEXAMPLE", secret, token)
    path, canonical = quote_path(f"/bucket/{key}"), quote_query(query)
    headers = {"host": "s3.example:9000", PAYLOAD_HASH: sha256(body).hexdigest(), **signed, **unsigned}
    added = sign(
        method=method,
        path=path,
        query=canonical,
        headers=headers,
        credentials=credentials,
        region=region,
        now=moment.timestamp(),
    )
    url = f"http://s3.example:9000{path}?{canonical}"
    expected = authorization_of_botocore(method, url, headers, body, credentials, region, moment)
    assert added == {name: expected[name] for name in added}
    assert ("x-amz-security-token" in added) == (token is not None)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ([("lifecycle", "")], "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        ([("prefix", "J"), ("max-keys", "2")], "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ],
)
def test_published_examples_that_sign_what_we_sign(query: list[tuple[str, str]], expected: str) -> None:
    added = sign(
        method="GET",
        path="/",
        query=quote_query(query),
        headers=EXAMPLE_HOST | {PAYLOAD_HASH: EMPTY_SHA256},
        credentials=EXAMPLE,
        region="us-east-1",
        now=EXAMPLE_TIME,
    )
    assert added["x-amz-date"] == "20130524T000000Z"
    assert added["authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, "
        f"SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={expected}"
    )


GET_OBJECT = f"""GET
/test.txt

host:examplebucket.s3.amazonaws.com
range:bytes=0-9
x-amz-content-sha256:{EMPTY_SHA256}
x-amz-date:20130524T000000Z

host;range;x-amz-content-sha256;x-amz-date
{EMPTY_SHA256}"""

PUT_HASH = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"
PUT_OBJECT = f"""PUT
/test%24file.text

date:Fri, 24 May 2013 00:00:00 GMT
host:examplebucket.s3.amazonaws.com
x-amz-content-sha256:{PUT_HASH}
x-amz-date:20130524T000000Z
x-amz-storage-class:REDUCED_REDUNDANCY

date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class
{PUT_HASH}"""


@pytest.mark.parametrize(
    ("canonical_request", "expected"),
    [
        (GET_OBJECT, "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"),
        (PUT_OBJECT, "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"),
    ],
)
def test_published_examples_that_sign_more(canonical_request: str, expected: str) -> None:
    found = signature(canonical_request, secret=EXAMPLE.secret_key, timestamp="20130524T000000Z", region="us-east-1")
    assert found == expected


def test_published_details_of_the_examples() -> None:
    assert quote_path("/test$file.text") == "/test%24file.text"
    assert sha256(b"Welcome to Amazon S3.").hexdigest() == PUT_HASH
    key = signing_key("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "20120215", "us-east-1", "iam")
    assert key.hex() == "f4780e2d9f65fa895f9c67b32ce1baf0b0d8a43505a000a1a9e090d414db404d"


def signed_example(headers: dict[str, str], **changes: str) -> dict[str, str]:
    parts = {"method": "GET", "path": "/k", "query": "", "region": "r"} | changes
    headers = {**EXAMPLE_HOST, PAYLOAD_HASH: UNSIGNED_PAYLOAD, **headers}
    return sign(headers=headers, credentials=EXAMPLE, now=EXAMPLE_TIME, **parts)


def test_headers_a_proxy_may_change_are_not_signed() -> None:
    plain = signed_example({})
    assert signed_example({"range": "bytes=0-9", "user-agent": "x", "accept-encoding": "identity"}) == plain
    assert signed_example({"x-amz-meta-a": "1"})["authorization"] != plain["authorization"]


def test_signing_again_replaces_what_an_earlier_signature_left() -> None:
    once = signed_example({})
    assert signed_example({**once, "x-amz-date": "19990101T000000Z"}) == once


@pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "a\nb", "a\rb", "a\0b", "\x1f", "\x7f", "\ud800"])
@pytest.mark.parametrize("name", ["x-amz-meta-a", "range"])
def test_a_value_cannot_begin_another_header(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name) as caught:
        signed_example({name: value})
    assert isinstance(caught.value, ValueError)
    assert value not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "x-amz-meta-\r\nevil", "Upper", "nаme"])  # noqa: RUF001
def test_a_name_must_be_one(name: str) -> None:
    with pytest.raises(ConfigError, match="not the name of a header"):
        signed_example({name: "v"})


@pytest.mark.parametrize("value", ["", "a\tb", "naïve", "no\xa0break", "🔑"])
def test_other_values_pass(value: str) -> None:
    check_header("x-amz-meta-a", value)
    assert "authorization" in signed_example({"x-amz-meta-a": value})


@pytest.mark.parametrize("change", [{"path": "/ü"}, {"query": "ü="}, {"region": "ü"}])
def test_what_is_not_quoted_is_not_signed(change: dict[str, str]) -> None:
    with pytest.raises(InvalidKeyError, match="ASCII"):
        signed_example({}, **change)


def test_credentials_show_no_secret() -> None:
    credentials = Credentials("AKIAIOSFODNN7EXAMPLE", "the-secret", "the-token", 12.5)
    assert repr(credentials) == "Credentials(access_key='AKIA...MPLE', expires_at=12.5)"
    assert repr(Credentials("minioadmin", "x")) == "Credentials(access_key='...', expires_at=None)"
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled"):
            leave(credentials)


def test_credentials_are_equal_when_they_sign_alike() -> None:
    assert Credentials("a", "b", "c", 1.0) == Credentials("a", "b", "c", 2.0)
    assert Credentials("a", "b", "c") != Credentials("a", "b", "d")
