"""Measure the fleet and the flow and send metrics to the OTLP backend."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kintsugi.core.connections import store_dsn
from kintsugi.core.errors import KintsugiError
from kintsugi.core.settings import Settings
from kintsugi.db.database import StoreUnavailable
from kintsugi.db.intake import IntakeStore
from kintsugi.pipeline.ingest.intake_report import IntakeReport
from kintsugi.probes.protocols import Probe, probe_nodes
from kintsugi.probes.stream_progress import read_flow
from kintsugi.telemetry.backend import load_backend
from kintsugi.telemetry.metrics import FlowMeter, Instruments, state_of
from kintsugi.web.intake import STALE_AFTER

if TYPE_CHECKING:
    from kintsugi.db.store import Store
    from kintsugi.probes.stream_progress import FlowReading


class MetricsExport:
    """Probes every node, reads the offsets and exports both as metrics."""

    def __init__(self, settings: Settings, store: Store, resource: Mapping[str, str]) -> None:
        target = load_backend()
        assert target is not None, "metrics need a backend"
        self._settings, self._store, self._backend = settings, store, target
        self._instruments = Instruments(target.metric_exporter(), resource)
        self._meter = FlowMeter()
        self._intake = IntakeStore(store_dsn(settings))

    def export_metrics(self) -> None:
        """Measure and send; raises KintsugiError when the backend does not accept the metrics."""
        probes, reading = asyncio.run(self._observe())
        self._record_nodes(probes)
        self._instruments.flow(self._meter.observe(reading))
        self._record_intake()
        if not self._instruments.send(self._backend.timeout_s + 1):
            raise KintsugiError(f"the OTLP backend at {self._backend.endpoint} did not accept the metrics")

    def _record_intake(self) -> None:
        try:
            stored = self._intake.report()
        except KintsugiError:
            return  # the metrics of the nodes are sent anyway
        if stored is not None and datetime.now(UTC) - stored[0] < STALE_AFTER:
            self._instruments.intake(IntakeReport.from_json(stored[1]))

    async def _observe(self) -> tuple[list[Probe], FlowReading]:
        fleet = self._settings.fleet
        reading = asyncio.create_task(read_flow(fleet))
        return await probe_nodes(fleet), await reading

    def _record_nodes(self, probes: list[Probe]) -> None:
        fleet = self._settings.fleet
        try:
            open_now = frozenset(self._store.first_failures())
            maintained = frozenset(name for name in fleet.nodes if self._store.read_maintenance(name))
            self._instruments.incidents(len(open_now))
        except StoreUnavailable:
            open_now = maintained = frozenset()  # the metrics of the nodes are sent anyway
        for probe in probes:
            state = state_of(probe.target, probe.answer, open_now, maintained)
            self._instruments.node(fleet.node(probe.target), probe.answer, probe.latency_s, state)
