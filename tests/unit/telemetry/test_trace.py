"""Traces reach a real OTLP receiver, over HTTP and gRPC, and are decoded from the wire."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from kintsugi.core.errors import KintsugiError
from kintsugi.telemetry.backend import Backend, Protocol
from kintsugi.telemetry.incident_trace import incident_trace
from kintsugi.telemetry.trace import export_trace, span_id, trace_id
from tests.fixtures_incidents import at, healed
from tests.receivers import ADDRESS, OtlpReceiver, attributes, otlp_over_grpc, otlp_over_http

Server = Callable[[], AbstractContextManager[OtlpReceiver]]
KEY = "hcaik_not_a_real_key"
WIRES = [
    pytest.param(otlp_over_http, Protocol.HTTP, id="http"),
    pytest.param(otlp_over_grpc, Protocol.GRPC, id="grpc"),
]


@pytest.mark.parametrize(("server", "protocol"), WIRES)
def test_an_incident_arrives_whole(server: Server, protocol: Protocol) -> None:
    root = incident_trace(healed())
    with server() as receiver:
        target = Backend(receiver.endpoint, protocol, {"x-honeycomb-team": KEY})
        export_trace(target, root, {"deployment.environment.name": "local"})
    spans = {span.name: span for span in receiver.spans()}
    assert len(receiver.spans()) == 1 + len(root.children)
    assert receiver.headers[0]["x-honeycomb-team"] == KEY
    resource = attributes(receiver.traces[0].resource_spans[0].resource)
    assert (resource["service.name"], resource["deployment.environment.name"]) == ("kintsugi", "local")
    top = spans["incident"]
    assert top.trace_id == trace_id(root.key).to_bytes(16)
    assert top.span_id == span_id(root.key, root.key).to_bytes(8)
    assert top.parent_span_id == b""
    assert top.start_time_unix_nano == int(at(0).timestamp()) * 10**9
    assert attributes(top)["kintsugi.node"] == "kafka-2"
    below = [span for span in receiver.spans() if span.name != "incident"]
    assert {span.parent_span_id for span in below} == {top.span_id}
    assert {span.trace_id for span in below} == {top.trace_id}
    assert [event.name for event in spans["rejoin"].events] == ["rejoin"]


@pytest.mark.parametrize(("server", "protocol"), WIRES)
def test_what_is_sent_again_is_the_same_trace(server: Server, protocol: Protocol) -> None:
    with server() as receiver:
        target = Backend(receiver.endpoint, protocol)
        for _ in range(2):
            export_trace(target, incident_trace(healed()), {})
    first, second = receiver.traces
    assert first == second


@pytest.mark.parametrize(("server", "protocol"), WIRES)
def test_a_refusal_is_an_error_that_names_no_key(
    server: Server, protocol: Protocol, caplog: pytest.LogCaptureFixture
) -> None:
    with server() as receiver:
        receiver.refuse = True
        target = Backend(receiver.endpoint, protocol, {"x-honeycomb-team": KEY})
        with pytest.raises(KintsugiError, match="did not accept a trace") as refused:
            export_trace(target, incident_trace(healed()), {})
    assert KEY not in str(refused.value) + caplog.text + repr(target)


@pytest.mark.parametrize("protocol", list(Protocol))
def test_a_backend_that_never_answers_costs_its_timeout_and_no_more(protocol: Protocol) -> None:
    with socket.socket() as deaf:
        deaf.bind((ADDRESS, 0))
        deaf.listen()  # the kernel accepts; nobody ever answers
        target = Backend(f"http://{ADDRESS}:{deaf.getsockname()[1]}", protocol, timeout_s=1.0)
        started = time.monotonic()
        with pytest.raises(KintsugiError):
            export_trace(target, incident_trace(healed()), {})
    assert time.monotonic() - started < 5.0
