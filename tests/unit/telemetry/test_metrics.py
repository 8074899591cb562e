from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from kintsugi.core.fleet import Node, Role
from kintsugi.core.observation import ProbeResult
from kintsugi.pipeline.ingest.intake_report import IntakeReport
from kintsugi.probes.stream_progress import FlowReading
from kintsugi.telemetry.backend import Backend, Protocol
from kintsugi.telemetry.metrics import FlowMeter, Instruments, StreamRates, state_of
from tests.fixtures_incidents import at
from tests.receivers import otlp_over_grpc, otlp_over_http

NOW = datetime(2026, 11, 27, tzinfo=UTC)
NODE = Node("kafka-1", Role.KAFKA, "127.34.1.1", 2222)


def reading(after: float, produced: int | None, committed: int | None) -> FlowReading:
    return FlowReading(at(after), True, committed, produced)


def test_rates_are_between_two_readings() -> None:
    meter = FlowMeter()
    assert meter.observe(reading(0, 100, 100)) == StreamRates(True, 0, None, None, 0.0)
    flow = meter.observe(reading(10, 600, 500))
    assert (flow.produced_per_s, flow.stored_per_s, flow.lag) == (50.0, 40.0, 100)


def test_freshness_is_the_age_of_the_oldest_reading_that_is_not_stored() -> None:
    meter = FlowMeter()
    stored = [(0, 100, 90), (10, 200, 90), (20, 300, 150), (30, 300, 250), (40, 300, 300)]
    ages = [meter.observe(reading(*numbers)).freshness_s for numbers in stored]
    # At 20 s the messages of the first reading are stored, at 30 s those of the second.
    assert ages == [0.0, 10.0, 10.0, 10.0, 0.0]


def test_what_kafka_cannot_say_is_no_figure_and_the_next_rate_spans_the_gap() -> None:
    meter = FlowMeter()
    meter.observe(reading(0, 100, 100))
    assert meter.observe(reading(10, None, None)) == StreamRates(running=True)
    assert meter.observe(reading(20, 300, 300)).produced_per_s == 10.0


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (ProbeResult.OK, "well"),
        (ProbeResult.REFUSED, "down"),
        (ProbeResult.TIMEOUT, "down"),
        (ProbeResult.WRONG, "down"),
    ],
)
def test_the_state_of_a_node_nobody_works_on(answer: ProbeResult, state: str) -> None:
    assert state_of("kafka-1", answer, frozenset({"kafka-2"}), frozenset()) == state


def test_repair_and_maintenance_come_before_what_the_node_says() -> None:
    one = frozenset({"kafka-1"})
    assert state_of("kafka-1", ProbeResult.REFUSED, one, frozenset()) == "repairing"
    assert state_of("kafka-1", ProbeResult.REFUSED, one, one) == "maintenance"


@pytest.mark.parametrize(
    ("server", "protocol"), [(otlp_over_http, Protocol.HTTP), (otlp_over_grpc, Protocol.GRPC)]
)
def test_metrics_arrive_and_unknown_figures_do_not(server: object, protocol: Protocol) -> None:
    with server() as receiver:  # type: ignore[operator]
        target = Backend(receiver.endpoint, protocol, {"x-honeycomb-team": "k"})
        instruments = Instruments(target.metric_exporter(), {"service.namespace": "kintsugi"})
        instruments.node(NODE, ProbeResult.OK, 0.25, "well")
        instruments.flow(StreamRates(running=True, lag=7))
        instruments.incidents(2)
        instruments.intake(
            IntakeReport(NOW, waiting=3, oldest_at=NOW - timedelta(seconds=90), failed_count=1)
        )
        assert instruments.send(5)
        instruments.node(NODE, ProbeResult.REFUSED, 0.1, "down")
        assert instruments.send(5)
        instruments.close()
    points = receiver.points()
    who = {"host.name": "kafka-1", "kintsugi.node": "kafka-1", "kintsugi.role": "kafka"}
    assert points["kintsugi.node.up"] == [(who, 1), (who, 0)]
    assert [of["kintsugi.state"] for of, _ in points["kintsugi.node.state"]] == ["well", "down"]
    assert points["kintsugi.flow.lag"] == [({}, 7.0)]
    assert points["kintsugi.incidents.open"] == [({}, 2)]
    assert "kintsugi.flow.freshness" not in points
    intake = {name.rpartition(".")[2]: of[0][1] for name, of in points.items() if ".intake." in name}
    assert intake == {
        "waiting": 3, "oldest_waiting": 90, "failed": 1, "retried": 0, "empty": 0, "missing": 0, "not_taken": 0,
    }  # fmt: skip
    assert receiver.headers[0]["x-honeycomb-dataset"] == "kintsugi-metrics"


def test_a_backend_that_refuses_is_noticed() -> None:
    with otlp_over_http() as receiver:
        receiver.refuse = True
        instruments = Instruments(Backend(receiver.endpoint).metric_exporter(), {})
        instruments.incidents(0)
        assert not instruments.send(2)
        instruments.close()
