"""A little of :mod:`.fuzzing`, what it has found, and large messages that a reader could be slow at."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from .fuzzed_files import FILES
from .fuzzing import TARGETS, check, fuzz


def npy(header: bytes) -> bytes:
    """A file of version 1 with this header, and a little after it."""
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + b"1234"


FOUND = {
    "s3": [
        b'<?xml version="1.0" encoding="unicode_escape"?><ListBucketResult/>',
        b'<?xml version="1.0" encoding="undefined"?><Error/>',
    ],
    "json": [
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"access_token": "a", "expires_in": 1' + b"0" * 400 + b"}",
        b'{"access_token": "a", "expires_in": NaN}',
        b'{"access_token": {"a": 1}, "expires_in": 1}',
        b'{"items": [{"name": "a", "size": "1", "updated": "0001-01-01T00:00:00+23:59"}]}',
        b'{"items": [{"name": "a", "size": {"a": 1}}], "prefixes": [{}]}',
        b'{"name": "a", "size": "1", "metadata": {"a": {"b": "c"}}}',
        b'{"prefixes": [""]}',
    ],
    "header": [b"http://[x/y?z", b"bytes 0-18446744073709551615/18446744073709551616"],
    "endpoints": [
        b"http://h{0...1000}{0...1000}{0...1000}{0...1000}",
        b"http://h" + b"{1...1}" * 5000,
        b"http://g{2},http://h{3...{1...9}4}:443",
        b"@~nobody-of-that-name/endpoints",
        b"@absent/\xff",
        b"@\0",
        b"http://\xff",
    ],
    "proxy": [b"http://\xff:secret@proxy", b"http://" + b":" * 100_000 + b"g"],
    "weights header": [b'{"\\ud800":{"dtype":"U8","shape":[29],"data_offsets":[0,29]}}'],
    "weights index": [b'{"weight_map": {"a": "\\ud800"}}', b'{"weight_map": {"\\udfff": "a"}}'],
    "account": [
        b"BlobEndpoint=http://h;SharedAccessSignature=se=0001-01-01T00:00:00%2B23:59&sig=a",
        b"AccountName=\xff",
    ],
}
LONG, MANY = 1 << 18, 1 << 14
HOSTILE = {
    "s3": [
        b"<!>" * MANY,
        b"<?x?>" * MANY + b"<" + b"a" * LONG,
        b"<ListBucketResult>" + b"<Contents>" * MANY,
        b"<ListBucketResult>" + b"<Contents><Key>a</Key>" * MANY + b"</Contents>",
        b"<ListBucketResult>" + b"&" * LONG + b"&#x" + b"0" * LONG + b"</ListBucketResult>",
        b"<ListBucketResult " + b" ".join(b"a%d='1'" % number for number in range(MANY)) + b"/>",
        b"<ListBucketResult>" + b"<a>" * MANY + b"</a>" * MANY + b"</ListBucketResult>",
        b" " * LONG + b"<Error>" + b"<Code>" * 10_000,
    ],
    "azure": [b"<EnumerationResults><Blobs>" + b"<Blob><Name>a</Name><Properties><A>" * MANY],
    "json": [b'{"items": [' + b'{"name": "a", "size": "1"},' * MANY + b"]}", b'{"items": "' + b"\\" * LONG],
    "header": [b"timeout" * LONG, b"timeout =" + b" " * LONG, b"bytes " + b"0" * LONG, b"crc32c=" * LONG],
    "endpoints": [b"," * LONG, b"http://h{" * LONG, b"http://h{1...9" * LONG, b"http://" + b"a.-" * LONG],
    "proxy": [b"http://" + b":" * LONG, b"http://" + b"a_" * LONG + b"!"],
    "no_proxy": [b"[" * LONG, b"*." * LONG, b"10.0.0.0/" + b"0" * LONG],
    "account": [b";" * LONG, b"AccountName=" + b"a" * LONG, b"a=b;" * LONG, b"?&" * LONG],
    "weights header": [
        b"{" + b'"a":[[' * MANY,
        b'{"__metadata__":{' + b",".join(b'"%d":"\\u0061"' % number for number in range(MANY)) + b"}}",
        b'{"a":{"dtype":"U8","shape":[' + b"1," * MANY + b'1],"data_offsets":[0,29]}}',
    ],
    "weights index": [b'{"weight_map": {' + b'"a": {' * MANY],
    "npy": [
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"(" * 9000),
        npy(b"{'descr': [" + b"('a', '<f4')," * 700 + b"], 'fortran_order': False, 'shape': (1,)}"),
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"1," * 4000 + b")}"),
        npy(b"-" * 9990),
    ],
    "tar": [FILES["tar"][1][0][:512] * 500, FILES["tar"][1][1][:512] * 500, FILES["tar"][1][2][:1536] * 200],
    "zip": [FILES["zip"][1][0] + b"PK\5\6" * MANY, b"PK\1\2" * MANY + FILES["zip"][1][0][-22:]],
    "shard index": [b"[" * LONG, b'{"version": 1, "members": {' + b'"name": [' * MANY],
    "uri": [
        b"s3://" + b"/" * LONG,
        b"abfss://" + b"a" * LONG + b"@",
        b"az://" + b"a-" * LONG,
        b"file://" + b"/" * LONG,
    ],
}


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_made_of_messages_is_read_or_refused(name: str) -> None:
    fuzz(TARGETS[name], seed=20, count=100)


@pytest.mark.parametrize("name", TARGETS)
@given(message=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(name: str, message: bytes) -> None:
    check(TARGETS[name], message)


@pytest.mark.parametrize("name", TARGETS)
def test_no_message_is_refused(name: str) -> None:
    """What is mutated would be refused at once if it were not sound."""
    for message in TARGETS[name].messages:
        TARGETS[name].read(message)


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found(name: str) -> None:
    for message in FOUND[name]:
        check(TARGETS[name], message)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.timeout(60)
def test_no_message_is_long_enough_to_hang_on(name: str) -> None:
    """What a reader looks at again and again for each of its bytes takes minutes."""
    for message in HOSTILE[name]:
        check(TARGETS[name], message)
