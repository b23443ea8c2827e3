"""S3's XML, both ways. Source: the "Amazon S3 API Reference", one page per operation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from urllib.parse import unquote_plus
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape

from ...errors import ErrorContext, ProtocolError, StoreError, error_class
from ...model import Decoded, ListPage, ObjectColumns, ObjectMeta, Part, RestoreStatus, StoredChecksum, iso_time
from ...transport.http1 import parse_size, quote_etag
from ..integrity import read_checksum
from ..xml import MOST_LISTED, PLAIN, WORD, parse, read_plain, text_of

_LISTING = "ListBucketResult"
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_QUOTE = '(?:"|&quot;|&#34;)'
_ENTRY = re.compile(
    r"<Contents>(?:<(?:"
    rf"Key>(?(1)(?!))({PLAIN}++)</Key"
    r"|Size>(?(2)(?!))([0-9]{1,18}+)</Size"
    rf"|ETag>(?(3)(?!)){_QUOTE}([!#-%'-;=?-~]++){_QUOTE}</ETag"
    rf"|LastModified>(?(4)(?!))({WORD}++)</LastModified"
    rf"|StorageClass>(?(5)(?!))({WORD}++)</StorageClass"
    rf"|ChecksumAlgorithm>{PLAIN}*+</ChecksumAlgorithm|ChecksumType>{PLAIN}*+</ChecksumType"
    rf"|Generation>{PLAIN}*+</Generation|MetaGeneration>{PLAIN}*+</MetaGeneration|Type>{PLAIN}*+</Type"
    rf"|Owner>(?:<ID>{PLAIN}*+</ID>)?+(?:<DisplayName>{PLAIN}*+</DisplayName>)?+</Owner"
    r")>)++(?(1)|(?!))(?(2)|(?!))</Contents>(?=<Contents>|\Z)"
)
"""A plain entry, its elements in any order: those that count at most once, key and size in any case."""
_REFERENCES = {"\r": "&#13;", "\n": "&#10;", "\t": "&#9;"}


def can_hold(key: str) -> bool:
    """Whether XML 1.0 can spell this key."""
    return _NOT_XML.search(key) is None


def parse_etag(element: Element) -> str | None:
    """An element's `ETag`, in quotes."""
    etag = text_of(element, "ETag")
    return quote_etag(etag) if etag else None


def parse_upload_id(body: bytes) -> str:
    """The new upload's id, in CreateMultipartUpload's answer. Errors: `ProtocolError`."""
    upload = text_of(parse(body, "InitiateMultipartUploadResult"), "UploadId")
    if upload is None:
        raise ProtocolError("the new upload has no id")
    return upload


def parse_written(body: bytes, root: str) -> str:
    """The etag of the object that was made, in an answer whose root is called so. Errors: `ProtocolError`."""
    etag = parse_etag(parse(body, root))
    if etag is None:
        raise ProtocolError("the object that was made is answered without its etag")
    return etag


def parse_checksum(body: bytes, algorithm: str) -> StoredChecksum | None:
    """The checksum that an answer tells of what was made, if it does. Errors: `ProtocolError` for what is no XML."""
    text = text_of(parse(body), f"Checksum{algorithm}")
    return read_checksum(algorithm, text) if text else None


def parse_tags(body: bytes) -> list[tuple[str, str]]:
    """An object's tags, in GetObjectTagging's answer: names and values as they stand. Errors: `ProtocolError`."""
    items = parse(body, "Tagging").iterfind("TagSet/Tag")
    return [(item.findtext("Key") or "", item.findtext("Value") or "") for item in items]


def parse_list_page(body: bytes) -> ListPage:
    """ListObjectsV2's answer. Errors: `ProtocolError`, also where more is promised and no token given."""
    plain = read_plain(body, _LISTING, "Contents", _ENTRY)
    root = plain.root if plain else parse(body, _LISTING, MOST_LISTED)
    encoded = text_of(root, "EncodingType") == "url"
    prefixes = tuple(_name(item, "Prefix", encoded=encoded) for item in root.iterfind("CommonPrefixes"))
    truncated = text_of(root, "IsTruncated") == "true"
    token = text_of(root, "NextContinuationToken") if truncated else None
    if truncated and token is None:
        raise ProtocolError("the listing goes on, but its page has no continuation token")
    if plain is not None:
        return ListPage(_columns(plain.rows, encoded=encoded), prefixes, token)
    return ListPage(tuple(_object(item, encoded=encoded) for item in root.iterfind("Contents")), prefixes, token)


def _columns(rows: Iterable[tuple[str, ...]], *, encoded: bool) -> ObjectColumns:
    keys, sizes, etags, times, classes = zip(*rows, strict=True)
    return ObjectColumns(
        {
            "key": [unquote_plus(key) if "%" in key or "+" in key else key for key in keys] if encoded else keys,
            "size": [*map(int, sizes)],
            "etag": [f'"{etag}"' if etag else None for etag in etags],
            "last_modified": Decoded(times, iso_time),
            "storage_class": [name or None for name in classes],
        }
    )


def _object(item: Element, *, encoded: bool) -> ObjectMeta:
    size = parse_size(text_of(item, "Size"))
    if size is None:
        raise ProtocolError("a listed object has no size that makes sense")
    return ObjectMeta(
        key=_name(item, "Key", encoded=encoded),
        size=size,
        etag=parse_etag(item),
        last_modified=iso_time(text_of(item, "LastModified")),
        storage_class=text_of(item, "StorageClass"),
        restore=_restore(item.find("RestoreStatus")),
    )


def _restore(item: Element | None) -> RestoreStatus | None:
    if item is None:
        return None
    in_progress = text_of(item, "IsRestoreInProgress") == "true"
    return RestoreStatus(in_progress, iso_time(text_of(item, "RestoreExpiryDate")))


def _name(item: Element, tag: str, *, encoded: bool) -> str:
    text = item.findtext(tag)  # as it stands: keys may begin and end with white space
    if not text:
        raise ProtocolError(f"a listing has an entry without {tag}")
    return unquote_plus(text) if encoded else text


def delete_body(keys: Sequence[str]) -> bytes:
    """DeleteObjects' request, quiet: only failures are answered."""
    objects = "".join(f"<Object><Key>{escape(key, _REFERENCES)}</Key></Object>" for key in keys)
    return f'<Delete xmlns="{_NAMESPACE}"><Quiet>true</Quiet>{objects}</Delete>'.encode()


def delete_failures(body: bytes, where: ErrorContext) -> Iterable[StoreError]:
    """The objects that DeleteObjects' answer, which came from `where`, says could not be removed."""
    for item in parse(body, "DeleteResult").iterfind("Error"):
        code = text_of(item, "Code")
        context = replace(where, key=item.findtext("Key") or None, status=200, code=code)
        kind = error_class(500 if code == "InternalError" else 400, code)
        yield kind(text_of(item, "Message") or "the object could not be removed", context)


def complete_body(parts: Sequence[Part]) -> bytes:
    """CompleteMultipartUpload's request."""
    listed = "".join(
        f"<Part><PartNumber>{part.number}</PartNumber><ETag>{escape(part.etag)}</ETag></Part>" for part in parts
    )
    return f'<CompleteMultipartUpload xmlns="{_NAMESPACE}">{listed}</CompleteMultipartUpload>'.encode()
