"""S3's XML: what servers send, what hostile ones send, and that nothing but a `ProtocolError` comes of it."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import quote_plus
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.errors import ErrorContext, PermissionDeniedError, ProtocolError, ServerError, WrongRegionError
from s3dlio.model import Part, RestoreStatus, iso_time
from s3dlio.stores.s3.restored import restore_status
from s3dlio.stores.s3.store import read_fault
from s3dlio.stores.s3.xml import (
    can_hold,
    complete_body,
    delete_body,
    delete_failures,
    parse_list_page,
)
from s3dlio.stores.xml import parse, parse_error

NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


def listing(*entries: str, **fields: str) -> bytes:
    texts = "".join(f"<{name}>{text}</{name}>" for name, text in fields.items())
    content = texts + "".join(entries)
    return f"<?xml version='1.0'?>\n<ListBucketResult {NAMESPACE}>{content}</ListBucketResult>".encode()


def entry(key: str, size: str = "1") -> str:
    return f"<Contents><Key>{key}</Key><Size>{size}</Size></Contents>"


def test_a_page() -> None:
    page = parse_list_page(
        listing(
            "<Contents><Key>a+b%2Fc%20d</Key><LastModified>2026-11-23T01:02:03.000Z</LastModified>"
            "<ETag>&quot;abc&quot;</ETag><Size>12</Size><StorageClass>GLACIER</StorageClass></Contents>",
            "<CommonPrefixes><Prefix>x%2F</Prefix></CommonPrefixes>",
            EncodingType="url",
            IsTruncated="true",
            NextContinuationToken="next",
        )
    )
    (found,) = page.objects
    assert (found.key, found.size, found.etag, found.storage_class) == ("a b/c d", 12, '"abc"', "GLACIER")
    assert found.last_modified == datetime(2026, 11, 23, 1, 2, 3, tzinfo=UTC)
    assert (page.prefixes, page.token) == (("x/",), "next")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("", None),
        ("<RestoreStatus/>", RestoreStatus(False)),
        ("<RestoreStatus><IsRestoreInProgress>true</IsRestoreInProgress></RestoreStatus>", RestoreStatus(True)),
        ("<RestoreStatus><IsRestoreInProgress>yes</IsRestoreInProgress></RestoreStatus>", RestoreStatus(False)),
        (
            "<RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress>"
            "<RestoreExpiryDate>2012-12-21T00:00:00.000Z</RestoreExpiryDate></RestoreStatus>",
            RestoreStatus(False, datetime(2012, 12, 21, tzinfo=UTC)),
        ),
        (
            "<RestoreStatus><RestoreExpiryDate>some day</RestoreExpiryDate></RestoreStatus>",
            RestoreStatus(False, None),
        ),
    ],
)
def test_what_a_listing_says_of_archived_objects(said: str, expected: RestoreStatus | None) -> None:
    (found,) = parse_list_page(listing(f"<Contents><Key>a</Key><Size>1</Size>{said}</Contents>")).objects
    assert found.restore == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (None, None),
        ('ongoing-request="true"', RestoreStatus(True)),
        (
            'ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"',
            RestoreStatus(False, datetime(2012, 12, 21, tzinfo=UTC)),
        ),
        ('ongoing-request="false", expiry-date="some day"', RestoreStatus(False)),
        ('expiry-date=""', RestoreStatus(False)),
        ("", RestoreStatus(False)),
        ("nonsense", RestoreStatus(False)),
    ],
)
def test_what_a_header_says_of_an_archived_object(said: str | None, expected: RestoreStatus | None) -> None:
    assert restore_status(said) == expected


@given(st.text())
def test_any_header_says_something_of_an_archived_object(said: str) -> None:
    found = restore_status(said)
    assert found is not None
    assert found.expiry is None or found.expiry.tzinfo is UTC


def test_keys_are_not_decoded_unless_they_are_encoded() -> None:
    assert parse_list_page(listing(entry("a+b%20c"))).objects[0].key == "a+b%20c"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_encoded_keys_come_back(key: str) -> None:
    page = parse_list_page(listing(entry(quote_plus(key)), EncodingType="url"))
    assert page.objects[0].key == key


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(can_hold))
def test_keys_in_a_deletion_come_back(key: str) -> None:
    root = parse(delete_body([key]))
    assert root.findtext("Object/Key") == key


@pytest.mark.parametrize("key", ["a\0b", "\x1f", "\ufffe", "\ud800"])
def test_keys_that_xml_has_no_form_for(key: str) -> None:
    assert not can_hold(key)


BAD_LISTINGS = {
    "nothing": b"",
    "no XML": b"hello",
    "HTML": b"<html><body>Log in</body></html>",
    "an error": b"<Error><Code>SlowDown</Code></Error>",
    "cut": listing(entry("a"))[:-5],
    "two roots": listing() + listing(),
    "no token": listing(entry("a"), IsTruncated="true"),
    "empty token": listing(entry("a"), IsTruncated="true", NextContinuationToken=""),
    "no size": listing("<Contents><Key>a</Key></Contents>"),
    "negative size": listing(entry("a", "-1")),
    "size no number": listing(entry("a", "1e3")),
    "size not ASCII": listing(entry("a", "\N{SUPERSCRIPT TWO}")),
    "size of other digits": listing(entry("a", "\N{ARABIC-INDIC DIGIT ONE}\N{CIRCLED DIGIT ONE}")),
    "size of many digits": listing(entry("a", "9" * 5000)),
    "no key": listing("<Contents><Size>1</Size></Contents>"),
    "empty prefix": listing("<CommonPrefixes><Prefix></Prefix></CommonPrefixes>"),
    "document type": b"<!DOCTYPE x><ListBucketResult/>",
    "entity": b'<!DOCTYPE x [<!ENTITY e "boom">]><ListBucketResult>&e;</ListBucketResult>',
    "external entity": b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><ListBucketResult/>',
    "undeclared entity": b"<ListBucketResult>&e;</ListBucketResult>",
    "unknown encoding": b"<?xml version='1.0' encoding='no-such'?><ListBucketResult/>",
    "multi-byte encoding": b"<?xml version='1.0' encoding='gb2312'?><ListBucketResult/>",
    "encoding that is none": b"<?xml version='1.0' encoding='rot13'?><ListBucketResult/>",
    "not UTF-8": b"<ListBucketResult>\xff</ListBucketResult>",
}


@pytest.mark.parametrize("body", BAD_LISTINGS)
def test_what_is_no_listing(body: str) -> None:
    with pytest.raises(ProtocolError):
        parse_list_page(BAD_LISTINGS[body])


def test_expansion_is_refused() -> None:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    with pytest.raises(ProtocolError, match="document type"):
        parse(f'<!DOCTYPE x [<!ENTITY e0 "ha">{entities}]><x>&e9;</x>'.encode())


@pytest.mark.parametrize("body", [b"<a/>" * 1_000_000, b"<a>" * 1_000_000, b"<R>" + b"<a>" * 30_000 + b"</a>" * 30_000])
def test_more_tags_than_make_sense(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="tags"):
        parse(body)


def test_depth_does_not_matter() -> None:
    depth = 20_000
    assert parse(b"<a>" * depth + b"</a>" * depth).tag == "a"


@pytest.mark.parametrize("written", [b"\x07", b"&#x7;", b"&#X7;".lower(), b"&#07;", b"&#x07;"])
def test_control_characters_are_read(written: bytes) -> None:
    """Without loss: a key that holds one is that key."""
    body = (
        b"<ListBucketResult><Contents><Key>t" + written + b"&amp;\n</Key><Size>1</Size></Contents></ListBucketResult>"
    )
    assert parse_list_page(body).objects[0].key == "t\x07&\n"


@given(st.text(st.characters(max_codepoint=0xFF), min_size=1))
def test_any_text_is_read_as_it_was_escaped(text: str) -> None:
    spelled = "".join(f"&#x{ord(letter):x};" if ord(letter) < 32 else escape(letter) for letter in text)
    assert parse(f"<a>\x01{spelled}</a>".encode()).text == "\x01" + text


def test_a_bare_ampersand_is_read() -> None:
    assert parse(b"<R><Key>a&b &amp; &lt;</Key></R>").findtext("Key") == "a&b & <"


def test_an_error_is_read_as_far_as_it_goes() -> None:
    for rest in (
        b"<Message>a & b</Message></Error>",
        b"<Message>cut",
        b"<a/>" * (2 << 20),
        b"<a>" * (2 << 20),
        b"<a</b>",
    ):
        root = parse_error(b" \r\n<?xml version='1.0'?><Error><Code>SlowDown</Code>" + rest)
        assert root is not None
        assert (root.findtext("Code"), len(root) < 20_000) == ("SlowDown", True)
    assert parse_error(b"<a/>" * (2 << 20)) is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1"])
def test_encodings(encoding: str) -> None:
    key = "\N{LATIN SMALL LETTER E WITH ACUTE}"
    text = f'<?xml version="1.0" encoding="{encoding}"?><ListBucketResult>{entry(key)}</ListBucketResult>'
    assert parse_list_page(text.encode(encoding)).objects[0].key == key


fragments = st.sampled_from(
    [
        *("<ListBucketResult>", "</ListBucketResult>", "<Contents>", "</Contents>", "<Key>k</Key>", "<Size>1</Size>"),
        *(
            "<Key>",
            "</Key>",
            "<IsTruncated>true</IsTruncated>",
            "<EncodingType>url</EncodingType>",
            "%zz",
            "%00",
            "&#0;",
        ),
        *(
            "<LastModified>0001-01-01T00:00:00+23:59</LastModified>",
            "<![CDATA[x]]>",
            "<!-- -->",
            "<?xml version='1.0'?>",
        ),
        *("<!DOCTYPE a>", "&lt;", "\0", "<Error>", "</Error>", "<Code>x</Code>", "<?xml version='1.0' encoding='x'?>"),
    ]
)


@given(st.lists(fragments | st.text(max_size=5)).map("".join))
def test_any_text_is_a_listing_or_an_error(text: str) -> None:
    body = text.encode("utf-8", "surrogatepass")
    for document in (body, b"<ListBucketResult>" + body + b"</ListBucketResult>"):
        try:
            page = parse_list_page(document)
        except ProtocolError:
            continue
        assert all(item.key for item in page.objects)


@given(st.binary(max_size=100))
def test_any_bytes_are_an_error_answer(body: bytes) -> None:
    fault = read_fault(400, {}, body)
    assert fault is not None
    assert read_fault(400, {}, b"<Error>" + body) is not None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-23T01:02:03.456Z", datetime(2026, 11, 23, 1, 2, 3, 456_000, UTC)),
        ("2026-11-23T01:02:03+02:00", datetime(2026, 11, 22, 23, 2, 3, tzinfo=UTC)),
        ("2026-11-23T01:02:03", datetime(2026, 11, 23, 1, 2, 3, tzinfo=UTC)),
        ("yesterday", None),
        ("0001-01-01T00:00:00+23:59", None),
        (None, None),
    ],
)
def test_times(text: str | None, expected: datetime | None) -> None:
    assert iso_time(text) == expected


def test_failed_deletions() -> None:
    body = f"<DeleteResult {NAMESPACE}><Error><Key>a</Key><Code>AccessDenied</Code><Message>no</Message></Error>"
    body += "<Deleted><Key>c</Key></Deleted><Error><Key>b</Key><Code>InternalError</Code></Error></DeleteResult>"
    where = ErrorContext(operation="DeleteObjects", bucket="data")
    denied, failed = delete_failures(body.encode(), where)
    assert isinstance(denied, PermissionDeniedError)
    assert isinstance(failed, ServerError)
    assert (denied.key, denied.code, failed.key, failed.bucket) == ("a", "AccessDenied", "b", "data")


def test_a_completion() -> None:
    root = parse(complete_body([Part(1, '"a<b"', 5), Part(2, '"c"', 5)]))
    assert [(part.findtext("PartNumber"), part.findtext("ETag")) for part in root] == [("1", '"a<b"'), ("2", '"c"')]


def test_error_answers() -> None:
    body = (
        b"<Error><Code>X</Code><Message>&lt;m&gt;</Message><RequestId>r</RequestId><Region>eu-west-1</Region></Error>"
    )
    fault = read_fault(400, {}, body, signed_for="us-east-1")
    assert fault is not None
    assert (fault.code, fault.message, fault.request_id) == ("X", "<m>", "r")
    assert fault.error is not None
    moved = fault.error("m", ErrorContext(status=400))
    assert isinstance(moved, WrongRegionError)
    assert (moved.region, moved.status) == ("eu-west-1", 400)
    same = read_fault(400, {"x-amz-bucket-region": "us-east-1"}, body, signed_for="us-east-1")
    assert same is not None
    assert same.error is None
    assert read_fault(200, {}, body) is not None
    assert read_fault(200, {}, b"<CopyObjectResult/>") is None
    assert read_fault(200, {}, b"") is None
    assert escape(fault.message or "") == "&lt;m&gt;"
