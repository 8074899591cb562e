"""Receivers for tests, on loopback: OTLP over HTTP and gRPC, and plain HTTP. Real servers that keep what they got."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

ADDRESS = "127.34.0.2"


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class HttpReceiver:
    """An HTTP server. ``answer`` decides status and body; by default 200 and ``{}``."""

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    answer: Callable[[Request], tuple[int, bytes]] = lambda request: (200, b"{}")


@contextmanager
def http_receiver() -> Iterator[HttpReceiver]:
    """A running HttpReceiver on a free port."""
    receiver = HttpReceiver()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, self.path, headers, body)
            receiver.requests.append(request)
            status, content = receiver.answer(request)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = handle_any  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
            pass

    server = ThreadingHTTPServer((ADDRESS, 0), Handler)
    receiver.url = f"http://{ADDRESS}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()


@dataclass(slots=True)
class OtlpReceiver:
    """An OTLP backend that decodes what it gets. ``refuse``: answer everything with an error."""

    endpoint: str = ""
    traces: list[ExportTraceServiceRequest] = field(default_factory=list)
    metrics: list[ExportMetricsServiceRequest] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    refuse: bool = False

    def spans(self) -> list[Span]:
        return [
            span
            for request in self.traces
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def points(self) -> dict[str, list[tuple[dict[str, Any], float]]]:
        """Of every gauge: attributes and value of each point."""
        found: dict[str, list[tuple[dict[str, Any], float]]] = {}
        for request in self.metrics:
            for resource in request.resource_metrics:
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        for point in metric.gauge.data_points:
                            value = (
                                point.as_double if point.WhichOneof("value") == "as_double" else point.as_int
                            )
                            found.setdefault(metric.name, []).append((attributes(point), value))
        return found


def attributes(holder: Any) -> dict[str, Any]:
    """The attributes of a span, an event, a point or a resource, as Python values."""
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in holder.attributes}


@contextmanager
def otlp_over_http() -> Iterator[OtlpReceiver]:
    """An OTLP backend that speaks HTTP with protobuf."""
    receiver = OtlpReceiver()

    def take(request: Request) -> tuple[int, bytes]:
        receiver.headers.append(request.headers)
        if receiver.refuse:
            return 401, b"unknown API key"
        body = gzip.decompress(request.body) if "gzip" in request.headers.values() else request.body
        if request.path == "/v1/traces":
            receiver.traces.append(ExportTraceServiceRequest.FromString(body))
        elif request.path == "/v1/metrics":
            receiver.metrics.append(ExportMetricsServiceRequest.FromString(body))
        else:
            return 404, b""
        return 200, b""

    with http_receiver() as server:
        server.answer = take
        receiver.endpoint = server.url
        yield receiver


@contextmanager
def otlp_over_grpc() -> Iterator[OtlpReceiver]:
    """An OTLP backend that speaks gRPC."""
    import grpc  # type: ignore[import-untyped]
    from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc

    receiver = OtlpReceiver()

    def note(context: Any) -> None:
        receiver.headers.append({key: str(value) for key, value in context.invocation_metadata()})
        if receiver.refuse:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "unknown API key")

    class Traces(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> ExportTraceServiceResponse:  # noqa: N802 - gRPC's name
            note(context)
            receiver.traces.append(request)
            return ExportTraceServiceResponse()

    class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
        def Export(self, request: Any, context: Any) -> ExportMetricsServiceResponse:  # noqa: N802
            note(context)
            receiver.metrics.append(request)
            return ExportMetricsServiceResponse()

    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    add_traces: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add_metrics: Any = metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server
    add_traces(Traces(), server)
    add_metrics(Metrics(), server)
    port = server.add_insecure_port(f"{ADDRESS}:0")
    receiver.endpoint = f"http://{ADDRESS}:{port}"
    server.start()
    try:
        yield receiver
    finally:
        server.stop(0).wait()
