"""Metrics of fleet and flow: which nodes answer, their states, and the rates of trades."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from kintsugi.core.fleet import Node
from kintsugi.core.observation import ProbeResult
from kintsugi.telemetry.trace import SERVICE

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation
    from opentelemetry.sdk.metrics.export import MetricExporter

    from kintsugi.pipeline.ingest.intake_report import IntakeReport
    from kintsugi.probes.stream_progress import FlowReading

_HISTORY = 512


@dataclass(frozen=True, slots=True)
class StreamRates:
    """The flow at one moment; None when a value is not known. Rates in messages a second, lag in messages.

    ``freshness_s``: the age in seconds of the oldest reading whose messages are not all stored yet; 0 when
    all are stored.
    """

    running: bool | None = None
    lag: int | None = None
    produced_per_s: float | None = None
    stored_per_s: float | None = None
    freshness_s: float | None = None


@dataclass(slots=True)
class FlowMeter:
    """Turns readings of the offsets, fed in order of time, into a Flow."""

    _last: FlowReading | None = None
    _history: deque[FlowReading] = field(default_factory=lambda: deque(maxlen=_HISTORY))

    def observe(self, reading: FlowReading) -> StreamRates:
        """Add a reading; an empty reading gives no figures, and the next one covers the gap."""
        if reading.produced is None or reading.committed is None:
            return StreamRates(running=reading.running)
        last, self._last = self._last, reading
        while self._history and (self._history[0].produced or 0) <= reading.committed:
            self._history.popleft()
        oldest = self._history[0].at if self._history else reading.at
        if reading.lag:
            self._history.append(reading)
        return StreamRates(
            running=reading.running,
            lag=reading.lag,
            produced_per_s=_rate_between(last, reading, lambda at: at.produced),
            stored_per_s=_rate_between(last, reading, lambda at: at.committed),
            freshness_s=(reading.at - oldest).total_seconds(),
        )


def _rate_between(
    last: FlowReading | None, now: FlowReading, count: Callable[[FlowReading], int | None]
) -> float | None:
    """How fast ``count`` rose between two readings, in messages a second; None without two to compare."""
    before, after = (None if last is None else count(last)), count(now)
    seconds = (now.at - last.at).total_seconds() if last else 0.0
    if before is None or after is None or seconds <= 0:
        return None
    return max(0, after - before) / seconds


GAUGES: Mapping[str, tuple[str, str]] = {
    "kintsugi.node.up": ("1", "1 when the node answers its own protocol"),
    "kintsugi.node.state": ("1", "1 for the state that the node is in"),
    "kintsugi.node.answer_time": ("s", "Time until the node answered"),
    "kintsugi.incidents.open": ("{incident}", "Incidents open now"),
    "kintsugi.flow.running": ("1", "1 when the stream has cores"),
    "kintsugi.flow.lag": ("{message}", "Produced but not yet stored"),
    "kintsugi.flow.produced": ("{message}/s", "Rate into Kafka"),
    "kintsugi.flow.stored": ("{message}/s", "Rate into Cassandra"),
    "kintsugi.flow.freshness": ("s", "Age of the oldest message that is not stored"),
    "kintsugi.intake.waiting": ("{file}", "Trade files in S3 that are not ingested"),
    "kintsugi.intake.oldest_waiting": ("s", "Age of the oldest of them"),
    "kintsugi.intake.failed": ("{file}", "Files whose newest content can't be used"),
    "kintsugi.intake.retried": ("{file}", "Files for which S3 fails"),
    "kintsugi.intake.rejected_share": ("1", "Rejected rows of all rows of the last day"),
    "kintsugi.intake.empty": ("{file}", "Files of the last week without a row"),
    "kintsugi.intake.missing": ("{file}", "Sessions of the exchange whose file is missing"),
    "kintsugi.intake.not_taken": (
        "{file}",
        "Objects that are not ingested: checksums, other products of the vendor",
    ),
}
"""Unit (UCUM) and meaning of every metric."""


class Instruments:
    """The project's metrics with OpenTelemetry's SDK; ``send`` exports the values since the last export.

    The gauges are observable: a synchronous gauge would repeat the last value when the value is not known any more.
    """

    def __init__(self, exporter: MetricExporter, resource: Mapping[str, str]) -> None:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.resources import Resource

        # The periodic reader exports in its own thread and does not return whether that succeeded.
        self._exporter, self._reader = exporter, InMemoryMetricReader()
        self._provider = MeterProvider(
            [self._reader], Resource.create({"service.name": SERVICE, **resource}), shutdown_on_exit=False
        )
        self._noted: dict[str, list[Observation]] = {}
        meter = self._provider.get_meter(SERVICE)
        for name, (unit, meaning) in GAUGES.items():
            meter.create_observable_gauge(name, [partial(self._observe, name)], unit, meaning)

    def _observe(self, name: str, options: CallbackOptions) -> Sequence[Observation]:
        return self._noted.pop(name, [])

    def _note(self, name: str, value: float, who: Mapping[str, str] | None = None) -> None:
        from opentelemetry.metrics import Observation

        self._noted.setdefault(name, []).append(Observation(value, who))

    def node(self, node: Node, answer: ProbeResult, latency_s: float, state: str) -> None:
        """Note how a node answered. ``state``: well, down, repairing or maintenance."""
        who = {"host.name": node.name, "kintsugi.node": node.name, "kintsugi.role": node.role.value}
        self._note("kintsugi.node.up", int(answer is ProbeResult.OK), who)
        self._note("kintsugi.node.state", 1, {**who, "kintsugi.state": state})
        if answer is ProbeResult.OK:
            self._note("kintsugi.node.answer_time", latency_s, who)

    def incidents(self, open_now: int) -> None:
        """Note how many incidents are open."""
        self._note("kintsugi.incidents.open", open_now)

    def flow(self, flow: StreamRates) -> None:
        """Note the flow; an unknown value is not sent."""
        figures = {
            "kintsugi.flow.running": flow.running,
            "kintsugi.flow.lag": flow.lag,
            "kintsugi.flow.produced": flow.produced_per_s,
            "kintsugi.flow.stored": flow.stored_per_s,
            "kintsugi.flow.freshness": flow.freshness_s,
        }
        for name, value in figures.items():
            if value is not None:
                self._note(name, float(value))

    def intake(self, report: IntakeReport) -> None:
        """Note the intake (the step before Kafka)."""
        figures: dict[str, float | None] = {
            "waiting": report.waiting,
            "oldest_waiting": report.oldest_waiting_s,
            "failed": report.failed_count,
            "retried": len(report.retried),
            "rejected_share": report.rejected_share,
            "empty": len(report.empty),
            "missing": len(report.missing),
            "not_taken": report.not_taken_count,
        }
        for name, value in figures.items():
            if value is not None:
                self._note(f"kintsugi.intake.{name}", float(value))

    def send(self, timeout_s: float) -> bool:
        """Export; returns whether the backend accepted it within ``timeout_s`` seconds."""
        from opentelemetry.sdk.metrics.export import MetricExportResult

        measured = self._reader.get_metrics_data()
        if measured is None:
            return True
        return self._exporter.export(measured, timeout_s * 1000) is MetricExportResult.SUCCESS

    def close(self) -> None:
        self._provider.shutdown(timeout_millis=1000)
        self._exporter.shutdown()


def state_of(
    node: str, answer: ProbeResult, open_incidents: frozenset[str], maintained: frozenset[str]
) -> str:
    """The state of a node in a word: well, down, repairing or maintenance."""
    if node in maintained:
        return "maintenance"
    if node in open_incidents:
        return "repairing"
    return "well" if answer is ProbeResult.OK else "down"
