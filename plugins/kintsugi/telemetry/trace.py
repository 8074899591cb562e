"""Traces of finished work: spans with given times and ids, exported in one request.

The ids are digests of names, so a trace that is sent twice has the same ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from kintsugi.core.errors import KintsugiError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Tracer
    from opentelemetry.util.types import AttributeValue

    from kintsugi.telemetry.backend import Backend

SERVICE = "kintsugi"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Attributes = Mapping[str, "AttributeValue"]


@dataclass(frozen=True, slots=True)
class Moment:
    """An event at one moment of a span (UTC); becomes a span event."""

    at: datetime
    name: str
    attributes: Attributes = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """A named period of time below its parent. Times are UTC; ``error`` says why it failed.

    ``key`` is unique within its trace, and the span's id derives from it. ``producer``: whether it sends
    messages to another service.
    """

    key: str
    name: str
    start: datetime
    end: datetime
    attributes: Attributes = field(default_factory=dict)
    moments: Sequence[Moment] = ()
    error: str | None = None
    producer: bool = False
    children: Sequence[Span] = ()

    def walk(self) -> Iterator[Span]:
        """This span, then all below it."""
        yield self
        for child in self.children:
            yield from child.walk()


def trace_id(root: str) -> int:
    """128 bits from the name of the trace; never zero, which OpenTelemetry forbids."""
    return int.from_bytes(hashlib.sha256(f"trace/{root}".encode()).digest()[:16]) or 1


def span_id(root: str, key: str) -> int:
    """64 bits from the trace's name and the span's; never zero."""
    return int.from_bytes(hashlib.sha256(f"span/{root}/{key}".encode()).digest()[:8]) or 1


def export_trace(backend: Backend, root: Span, resource: Mapping[str, str]) -> None:
    """Send the trace below ``root`` in one request; raises KintsugiError when the backend does not accept it.

    ``resource``: attributes of the sender beside ``service.name``. Bounded by the backend's ``timeout_s``.
    """
    from opentelemetry.sdk.trace.export import SpanExportResult

    exporter = backend.span_exporter()
    try:
        result = exporter.export(record_trace(root, resource))
    finally:
        exporter.shutdown()
    if result is not SpanExportResult.SUCCESS:
        raise KintsugiError(
            f"the OTLP backend at {backend.endpoint} did not accept a trace of {root.key}; see the log above"
        )


def record_trace(root: Span, resource: Mapping[str, str]) -> Sequence[ReadableSpan]:
    """The trace as the SDK's finished spans."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from opentelemetry.sdk.trace.id_generator import IdGenerator
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    class Derived(IdGenerator):
        """Gives the ids of one trace in the order in which its spans are walked."""

        def __init__(self) -> None:
            self.keys = (span.key for span in root.walk())

        def generate_trace_id(self) -> int:
            return trace_id(root.key)

        def generate_span_id(self) -> int:
            return span_id(root.key, next(self.keys))

    memory = InMemorySpanExporter()
    provider = TracerProvider(
        sampler=ALWAYS_ON,
        resource=Resource.create({"service.name": SERVICE, **resource}),
        id_generator=Derived(),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(SimpleSpanProcessor(memory))
    _record_span(provider.get_tracer(SERVICE), root, None)
    return memory.get_finished_spans()


def _record_span(tracer: Tracer, span: Span, parent: object) -> None:
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

    live = tracer.start_span(
        span.name,
        context=parent if isinstance(parent, Context) else Context(),
        kind=SpanKind.PRODUCER if span.producer else SpanKind.INTERNAL,
        attributes=dict(span.attributes),
        start_time=_to_nanoseconds(span.start),
    )
    for moment in span.moments:
        live.add_event(moment.name, dict(moment.attributes), timestamp=_to_nanoseconds(moment.at))
    if span.error is not None:
        live.set_status(Status(StatusCode.ERROR, span.error))
    for child in span.children:
        _record_span(tracer, child, set_span_in_context(live))
    live.end(end_time=_to_nanoseconds(span.end))


def _to_nanoseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000
