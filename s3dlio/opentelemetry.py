"""Attempts as spans of OpenTelemetry. Needs the extra `s3dlio[opentelemetry]`.

Each attempt of a request is a client's span, called as the operation is, in the span that was current where the store
was called. Attributes are named by the semantic conventions for HTTP clients and, there being no others for objects,
for S3, with all stores; https://opentelemetry.io/docs/specs/semconv/. There is no URL among them: its query may be a
secret.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, TracerProvider
from opentelemetry.util.types import AttributeValue

from . import observers
from .observers import Attempt

__all__ = ["instrument", "uninstrument"]

_installed: observers.Observer | None = None


def instrument(tracer_provider: TracerProvider | None = None) -> None:
    """Make spans of all attempts of this process, from now on, with `tracer_provider`, or else with the global one.

    A forked process, such as a worker of a `DataLoader`, begins without, and may call it as well. Raises nothing.
    """
    global _installed
    uninstrument()
    _installed = _Spans(trace.get_tracer("s3dlio", tracer_provider=tracer_provider)).observe
    observers.observe(_installed)


def uninstrument() -> None:
    """Make no more. Does nothing where none are made, and raises nothing."""
    if _installed is not None:
        observers.leave(_installed)


class _Spans:
    """The spans of attempts that are under way."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._under_way: dict[Attempt, Span] = {}

    def observe(self, event: str, what: object) -> None:
        if not isinstance(what, Attempt):
            return
        if event == "attempt.started":
            self._under_way[what] = self._tracer.start_span(
                what.operation, kind=SpanKind.CLIENT, attributes=_asked(what)
            )
        elif (span := self._under_way.pop(what, None)) is not None:
            span.set_attributes(_ended(what))
            if what.failure is not None:
                span.set_status(StatusCode.ERROR, what.failure)
            span.end()


def _asked(attempt: Attempt) -> dict[str, AttributeValue]:
    where = urlsplit(attempt.endpoint)
    return _known(
        {
            "http.request.method": attempt.method,
            "http.request.resend_count": attempt.attempt - 1 or None,
            "http.request.body.size": attempt.sent or None,
            "server.address": where.hostname,
            "server.port": where.port or {"http": 80, "https": 443}[where.scheme],
            "aws.s3.bucket": attempt.bucket,
            "aws.s3.key": attempt.key,
        }
    )


def _ended(attempt: Attempt) -> dict[str, AttributeValue]:
    connection, first_byte, body = attempt.waited
    return _known(
        {
            "http.response.status_code": attempt.status,
            "http.response.body.size": attempt.received,
            "aws.request_id": attempt.request_id,
            "error.type": attempt.failure,
            "s3dlio.connection_seconds": connection,
            "s3dlio.first_byte_seconds": first_byte,
            "s3dlio.body_seconds": body,
        }
    )


def _known(attributes: dict[str, AttributeValue | None]) -> dict[str, AttributeValue]:
    return {name: value for name, value in attributes.items() if value is not None}
