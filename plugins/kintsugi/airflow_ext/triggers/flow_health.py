"""Watch the stream: the streaming application runs, and the messages on the topic are stored."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from kintsugi.airflow_ext.triggers.node_health import MAX_WATCH_S
from kintsugi.airflow_ext.triggers.node_health_listener import end_of_watch
from kintsugi.core.connections import store_dsn
from kintsugi.core.fleet import Role
from kintsugi.core.observation import ProbeResult
from kintsugi.core.settings import load_settings
from kintsugi.db.flow_samples import FlowSample, FlowSamples
from kintsugi.db.heartbeats import FLOW, HEARTBEAT_WRITER
from kintsugi.db.store import StoreUnavailable
from kintsugi.probes.stream import probe_stream
from kintsugi.probes.stream_progress import FlowFinding, FlowReading, StreamProgressDetector, read_flow

log = logging.getLogger(__name__)


def flow_event(finding: FlowFinding) -> dict[str, Any]:
    """Return a FlowFinding as JSON: ``symptom first_failed_at detected_at evidence``; times ISO 8601, UTC."""
    return {
        "symptom": finding.symptom,
        "first_failed_at": finding.first_failed_at.isoformat(),
        "detected_at": finding.detected_at.isoformat(),
        "evidence": list(finding.evidence),
    }


def keep_sample(samples: FlowSamples, reading: FlowReading) -> None:
    """Write the reading to the database for Pipeline Health's charts; without the database only the sample is lost."""
    try:
        samples.add(FlowSample(reading.at, reading.running, reading.committed, reading.produced))
    except StoreUnavailable as error:
        log.warning("the sample of the flow at %s is lost: %s", reading.at, error)


class FlowHealthTrigger(BaseTrigger):
    """Reads the stream's state every ``interval`` seconds; it ends the task with its finding.

    The fleet is read from the fleet file of the triggerer's environment at each start, so that a changed
    fleet is watched after a restart. After ``max_watch`` seconds without a finding the task is skipped.
    """

    def __init__(self, *, interval: float = 5.0, max_watch: float = MAX_WATCH_S) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.interval = interval
        self.max_watch = max_watch

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the keyword arguments that create this trigger again."""
        kwargs = {"interval": self.interval, "max_watch": self.max_watch}
        return "kintsugi.airflow_ext.triggers.flow_health.FlowHealthTrigger", kwargs

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Read until a finding, or until ``max_watch`` is over."""
        finding = await self.watch()
        if finding is not None:
            log.warning("the flow looks %s: %s", finding.symptom, "; ".join(finding.evidence))
        yield end_of_watch(None if finding is None else flow_event(finding))

    async def watch(self) -> FlowFinding | None:
        """Read until the first finding, and return it; None after ``max_watch`` seconds without one."""
        settings = load_settings()
        fleet, samples = settings.fleet, FlowSamples(store_dsn(settings))
        watch, clock = StreamProgressDetector(), asyncio.get_running_loop().time
        ends_s = clock() + self.max_watch
        while clock() < ends_s:
            HEARTBEAT_WRITER.record(FLOW)
            reading = await read_flow(fleet)
            finding = watch.observe(reading)
            await asyncio.to_thread(keep_sample, samples, reading)
            if finding is not None:
                return finding
            await asyncio.sleep(self.interval)
        return None


class StreamAbsentTrigger(BaseTrigger):
    """Waits until the Spark master reports ``times`` times in a row that no streaming application holds a core.

    It ends the task with ``{"absent": True, "detail": …}``; after ``max_watch`` seconds the task is skipped. A
    master that doesn't answer says nothing: it has a watch of its own, and the application runs on without
    it.
    """

    def __init__(self, *, interval: float = 2.0, times: int = 5, max_watch: float = MAX_WATCH_S) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.interval = interval
        self.times = times
        self.max_watch = max_watch

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the keyword arguments that create this trigger again."""
        kwargs = {"interval": self.interval, "times": self.times, "max_watch": self.max_watch}
        return "kintsugi.airflow_ext.triggers.flow_health.StreamAbsentTrigger", kwargs

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Ask until the application is absent, or until ``max_watch`` is over."""
        detail = await self.watch()
        if detail is not None:
            log.warning("the stream is absent: %s", detail)
        yield end_of_watch(None if detail is None else {"absent": True, "detail": detail})

    async def watch(self) -> str | None:
        """Return the master's answer when the application was absent; None after ``max_watch`` seconds."""
        (master, *_), clock = load_settings().fleet.of(Role.SPARK_MASTER), asyncio.get_running_loop().time
        ends_s, absent, was_present = clock() + self.max_watch, 0, False
        while clock() < ends_s:
            probe = await probe_stream(master)
            if probe.answer is ProbeResult.OK:
                absent, was_present = 0, True
            elif probe.answer is ProbeResult.WRONG:
                absent += 1
            # An application that ran may be starting again. For one that was never seen, the wait is short.
            if absent >= (self.times if was_present else min(2, self.times)):
                return probe.detail
            await asyncio.sleep(self.interval)
        return None
