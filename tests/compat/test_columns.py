"""What a map dataset keeps of a listing looks as it did, and takes little room in a pickle."""

from __future__ import annotations

import pickle
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.compat.s3torchconnector._s3bucket_key_data import S3BucketKeyData, record_of
from s3dlio.compat.s3torchconnector.columns import Columns, Listing, in_columns
from s3dlio.compat.s3torchconnector.objects import HeadObjectResult, ObjectInfo
from s3dlio.model import ListPage, ObjectMeta, RestoreStatus

_MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))
_METAS = st.builds(
    ObjectMeta,
    key=st.text(max_size=5),
    size=st.integers(0, 1 << 70),
    etag=st.none() | st.text(max_size=5),
    last_modified=st.none() | _MOMENTS | st.just(datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1)))),
    storage_class=st.sampled_from([None, "STANDARD", "GLACIER"]),
    metadata=st.dictionaries(st.text(max_size=2), st.text(max_size=2), max_size=1),
    restore=st.none() | st.builds(RestoreStatus, st.booleans(), st.none() | _MOMENTS),
)
_BUCKETS = st.sampled_from([("s3", "a"), ("s3", "b"), ("file", "/folder")])
_LISTED = st.builds(lambda at, meta: record_of(at[0], at[1], meta.key, ObjectInfo.of(meta)), _BUCKETS, _METAS)
_NAMED = st.builds(lambda at, key: record_of(at[0], at[1], key), _BUCKETS, st.text(max_size=5))


def _scheme(record: S3BucketKeyData) -> str:
    return getattr(record, "scheme", "s3")


@given(st.lists(_LISTED, min_size=1) | st.lists(_NAMED, min_size=1))
def test_records_look_as_they_did(records: list[S3BucketKeyData]) -> None:
    columns = pickle.loads(pickle.dumps(in_columns(records)))
    assert isinstance(columns, Columns)
    assert list(columns) == columns[:] == records
    assert columns[::-1] == records[::-1]
    assert list(map(_scheme, columns)) == list(map(_scheme, records))
    assert columns[-1] == records[-1]
    for outside in (len(records), -len(records) - 1):
        with pytest.raises(IndexError):
            columns[outside]


_META = ObjectMeta(key="key", size=1)


@pytest.mark.parametrize(
    "records",
    [
        [],
        [S3BucketKeyData("b", "k", SimpleNamespace(size=1))],
        [S3BucketKeyData("b", "k", HeadObjectResult.of(_META))],
        [S3BucketKeyData("b", "k", ObjectInfo.of(_META)), S3BucketKeyData("b", "k")],
        [SimpleNamespace(bucket="b", key="k", object_info=None)],
    ],
)
def test_records_of_a_program_s_own_stay_as_they_are(records: list[Any]) -> None:
    assert in_columns(iter(records)) == records


@given(st.lists(st.lists(_METAS, max_size=3), max_size=4), st.sampled_from(["s3", "file"]))
def test_a_listing_in_columns_looks_as_its_records(pages: list[list[ObjectMeta]], scheme: str) -> None:
    def listing() -> Listing:
        return Listing(scheme, "b", (ListPage(tuple(page)) for page in pages))

    records = list(listing())
    columns = pickle.loads(pickle.dumps(in_columns(listing())))
    assert isinstance(columns, Columns)
    assert list(columns) == columns[:] == records
    assert list(map(_scheme, columns)) == list(map(_scheme, records)) == [scheme] * len(records)
    assert [columns[number - len(records)] for number in range(len(records))] == records
    for outside in (len(records), -len(records) - 1):
        with pytest.raises(IndexError):
            columns[outside]


def test_of_a_listing_that_was_begun_the_rest_is_kept() -> None:
    metas = tuple(replace(_META, key=key) for key in "abc")
    listing = Listing("s3", "b", iter([ListPage(metas)]))
    assert next(listing).key == "a"
    assert [record.key for record in in_columns(listing)] == ["b", "c"]


def test_a_key_takes_little_more_than_its_text() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    metas = [
        replace(_META, key=f"{n:040}", size=n, etag=f'"{n:032x}"', last_modified=moment + timedelta(seconds=n))
        for n in range(1000)
    ]
    records = (S3BucketKeyData("bucket", meta.key, ObjectInfo.of(meta)) for meta in metas)
    for found in (records, Listing("s3", "bucket", iter([ListPage(metas)]))):
        assert len(pickle.dumps(in_columns(found))) < 1000 * (40 + 34 + 8 + 8 + 8)
