"""Attempts as OpenTelemetry's own SDK sees them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import s3dlio
from s3dlio.opentelemetry import instrument, uninstrument
from s3dlio.stores.s3.store import S3Store

from .servers.faults import Fault, fault_server, refusal
from .servers.seaweedfs import SeaweedFS


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> Iterator[TracerProvider]:
    """What is instrumented with."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrument(provider)
    yield provider
    uninstrument()


def told(span: ReadableSpan) -> Mapping[str, Any]:
    return span.attributes or {}


async def test_a_span_for_each_attempt(
    provider: TracerProvider, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret")
    async with fault_server() as server:
        server.objects["/bucket/key"] = b"12345"
        server.script += [refusal(503, "SlowDown"), Fault()]
        async with S3Store("bucket", s3dlio.Config(endpoint=server.endpoint, region="r")) as store:
            with provider.get_tracer("mine").start_as_current_span("epoch") as mine:
                await store.get("key")
        port = int(server.endpoint.rpartition(":")[2])
    first, second, _ = exporter.get_finished_spans()
    asked = {
        "http.request.method": "GET",
        "server.address": "127.0.0.1",
        "server.port": port,
        "aws.s3.bucket": "bucket",
        "aws.s3.key": "key",
    }
    for span in (first, second):
        assert (span.name, span.kind) == ("GetObject", SpanKind.CLIENT)
        assert span.parent is not None
        assert span.parent.span_id == mine.get_span_context().span_id
        assert told(span).items() >= asked.items()
    assert first.status.status_code is StatusCode.ERROR
    assert told(first)["error.type"] == "throttled"
    assert told(first)["http.response.status_code"] == 503
    assert told(first)["aws.request_id"] == "request-SlowDown"
    assert "http.request.resend_count" not in told(first)
    assert second.status.status_code is StatusCode.UNSET
    assert told(second)["http.request.resend_count"] == 1
    assert (told(second)["http.response.status_code"], told(second)["http.response.body.size"]) == (200, 5)
    assert told(second)["s3dlio.first_byte_seconds"] > 0
    assert "canary" not in str([span.to_json() for span in (first, second)])


def test_a_blocking_call_is_in_the_span_of_its_caller(
    provider: TracerProvider, exporter: InMemorySpanExporter, s3_environment: SeaweedFS, bucket: str
) -> None:
    with provider.get_tracer("mine").start_as_current_span("epoch") as mine:
        s3dlio.put(f"s3://{bucket}/key", b"12345")
    s3dlio.get(f"s3://{bucket}/key")
    put, _, get = exporter.get_finished_spans()
    assert (put.name, get.name, get.parent) == ("PutObject", "GetObject", None)
    assert put.parent is not None
    assert put.parent.span_id == mine.get_span_context().span_id
    assert told(put)["http.request.body.size"] == 5


def test_many_reads_are_in_the_span_of_their_caller(
    provider: TracerProvider, exporter: InMemorySpanExporter, s3_environment: SeaweedFS, bucket: str
) -> None:
    uris = [f"s3://{bucket}/{number}" for number in range(20)]
    s3dlio.put_many(dict.fromkeys(uris, "content"), progress=False)
    for _ in range(2):  # one by one, then in batches
        exporter.clear()
        with provider.get_tracer("mine").start_as_current_span("epoch") as mine:
            s3dlio.get_many(uris, progress=False)
        parents = [span.parent for span in exporter.get_finished_spans() if span.name == "GetObject"]
        assert [parent and parent.span_id for parent in parents] == [mine.get_span_context().span_id] * len(uris)


def test_only_while_it_is_instrumented(
    provider: TracerProvider, exporter: InMemorySpanExporter, s3_environment: SeaweedFS, bucket: str
) -> None:
    instrument(provider)
    s3dlio.put(f"s3://{bucket}/key", b"12345")
    assert len(exporter.get_finished_spans()) == 1
    uninstrument()
    uninstrument()
    s3dlio.put(f"s3://{bucket}/key", b"12345")
    assert len(exporter.get_finished_spans()) == 1
