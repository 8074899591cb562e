"""The OTLP backend for telemetry, from the connection ``kintsugi_otlp``; without it nothing is sent.

Honeycomb: ``{"conn_type": "http", "host": "https://api.honeycomb.io", "password": "<ingest key>"}``; the password
is sent as the header ``x-honeycomb-team``. Any other backend: its endpoint as ``host``, its headers in
``extra.headers``. ``extra.protocol`` is ``http/protobuf`` (the default) or ``grpc``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from kintsugi.core.connections import connection, extras
from kintsugi.core.errors import KintsugiError

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.trace.export import SpanExporter

CONNECTION = "kintsugi_otlp"
TEAM_HEADER = "x-honeycomb-team"
DATASET_HEADER = "x-honeycomb-dataset"
METRICS_DATASET = "kintsugi-metrics"
TIMEOUT_S = 5.0


class Protocol(StrEnum):
    """The transport of OTLP; the values are those of OTEL_EXPORTER_OTLP_PROTOCOL."""

    HTTP = "http/protobuf"
    GRPC = "grpc"


@dataclass(frozen=True, slots=True)
class Backend:
    """One OTLP backend. ``endpoint``: scheme, host and port, without the path of a signal.

    ``headers`` contain secrets and are not in its repr. ``timeout_s``: seconds that one export may take,
    retries included.
    """

    endpoint: str
    protocol: Protocol = Protocol.HTTP
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = TIMEOUT_S

    @property
    def metric_headers(self) -> dict[str, str]:
        """Honeycomb puts spans into a dataset by ``service.name``; for metrics this header names the dataset."""
        if TEAM_HEADER not in self.headers:
            return dict(self.headers)
        return {DATASET_HEADER: METRICS_DATASET, **self.headers}

    def span_exporter(self) -> SpanExporter:
        """The SDK's exporter of spans for this backend; to be shut down after use."""
        if self.protocol is Protocol.GRPC:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

            return GrpcExporter(
                endpoint=self.endpoint, headers=tuple(self.headers.items()), timeout=self.timeout_s
            )
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter(
            endpoint=f"{self.endpoint}/v1/traces", headers=self.headers, timeout=self.timeout_s
        )

    def metric_exporter(self) -> MetricExporter:
        """The SDK's exporter of metrics for this backend."""
        if self.protocol is Protocol.GRPC:
            from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (
                OTLPMetricExporter as GrpcExporter,
            )

            return GrpcExporter(
                endpoint=self.endpoint, headers=tuple(self.metric_headers.items()), timeout=self.timeout_s
            )
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

        return OTLPMetricExporter(
            endpoint=f"{self.endpoint}/v1/metrics", headers=self.metric_headers, timeout=self.timeout_s
        )

    def environment(self) -> dict[str, str]:
        """The OTel SDK's own variables, for programs that read those, such as Airflow. Contains secrets."""
        headers = ",".join(f"{name}={quote(value)}" for name, value in self.headers.items())
        metrics = ",".join(f"{name}={quote(value)}" for name, value in self.metric_headers.items())
        exporter = "otlp_proto_grpc" if self.protocol is Protocol.GRPC else "otlp_proto_http"
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": self.protocol.value,
            "OTEL_TRACES_EXPORTER": exporter,
            "OTEL_EXPORTER_OTLP_HEADERS": headers,
            "OTEL_EXPORTER_OTLP_METRICS_HEADERS": metrics,
            # A task flushes its spans before it ends; a dead backend must not delay it for longer than this.
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        }
        return {name: value for name, value in variables.items() if value}


def load_backend(defined: Mapping[str, Any] | None = None) -> Backend | None:
    """The backend that the connection (default: the environment's ``kintsugi_otlp``) describes; None without one.

    Raises KintsugiError when the connection is wrong.
    """
    defined = defined or connection(CONNECTION)
    if not defined:
        return None
    extra = extras(defined)
    headers = {str(name).lower(): str(value) for name, value in (extra.get("headers") or {}).items()}
    if defined.get("password"):
        headers = {TEAM_HEADER: str(defined["password"]), **headers}
    return Backend(
        _parse_endpoint(defined), _parse_protocol(extra), headers, float(extra.get("timeout_s", TIMEOUT_S))
    )


def _parse_endpoint(defined: Mapping[str, Any]) -> str:
    host = str(defined.get("host") or "").rstrip("/")
    parts = urlsplit(host)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise KintsugiError(
            f"the host of the connection {CONNECTION} must be a URL such as https://api.honeycomb.io, not {host!r}"
        )
    port = defined.get("port")
    return host if parts.port or not port else f"{parts.scheme}://{parts.netloc}:{port}{parts.path}"


def _parse_protocol(extra: Mapping[str, Any]) -> Protocol:
    try:
        return Protocol(extra.get("protocol", Protocol.HTTP))
    except ValueError as error:
        choices = " or ".join(Protocol)
        raise KintsugiError(
            f"extra.protocol of the connection {CONNECTION} must be {choices}, not {extra['protocol']!r}"
        ) from error
