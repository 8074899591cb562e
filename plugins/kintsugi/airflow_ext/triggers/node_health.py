"""Watch one node until it counts as failed."""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TypeVar

from airflow.triggers.base import BaseTrigger, TriggerEvent

from kintsugi.airflow_ext.triggers.node_health_listener import end_of_watch
from kintsugi.core.errors import KintsugiError
from kintsugi.core.fleet import Node, Role
from kintsugi.core.observation import Finding, Symptom
from kintsugi.core.settings import load_settings
from kintsugi.db.heartbeats import HEARTBEAT_WRITER
from kintsugi.probes import clock_skew as clocks
from kintsugi.probes.event_loop_lag import LoopLag
from kintsugi.probes.failure_detector import HUNG_AFTER_S, FailureDetector, Rules
from kintsugi.probes.protocols import PROBE_TIMEOUT_S, probe_node

log = logging.getLogger(__name__)

MAX_WATCH_S = 6 * 3600.0

Outcome = TypeVar("Outcome")


def finding_event(finding: Finding) -> dict[str, Any]:
    """Return a Finding as JSON: ``node symptom first_failed_at detected_at evidence late_s``; times ISO 8601, UTC."""
    event = asdict(finding)
    event["symptom"] = str(finding.symptom)
    event["first_failed_at"] = finding.first_failed_at.isoformat()
    event["detected_at"] = finding.detected_at.isoformat()
    event["evidence"] = list(finding.evidence)
    return event


class NodeHealthTrigger(BaseTrigger):
    """Probes a node every ``interval`` seconds; it ends the task with its finding.

    Beside that it compares the clock of a service that depends on it (``kintsugi.probes.clock_skew``), less often.
    ``name``, ``address``, ``role`` and ``ssh_port`` describe the node, so that the triggerer needs no fleet
    file. After ``max_watch`` seconds without a finding the task is skipped: a run that never ends would
    never use a new version of its DAG.
    """

    def __init__(
        self,
        *,
        name: str,
        address: str,
        role: str,
        ssh_port: int = 2222,
        interval: float = 1.0,
        probe_timeout: float = PROBE_TIMEOUT_S,
        silence: float = HUNG_AFTER_S,
        max_watch: float = MAX_WATCH_S,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.node = Node(name, Role(role), address, ssh_port)
        self.interval = interval
        self.probe_timeout = probe_timeout
        self.silence = silence
        self.max_watch = max_watch

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the keyword arguments that create this trigger again."""
        return (
            "kintsugi.airflow_ext.triggers.node_health.NodeHealthTrigger",
            {
                "name": self.node.name,
                "address": self.node.address,
                "role": str(self.node.role),
                "ssh_port": self.node.ssh_port,
                "interval": self.interval,
                "probe_timeout": self.probe_timeout,
                "silence": self.silence,
                "max_watch": self.max_watch,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Probe until a finding, or until ``max_watch`` is over."""
        finding = await self.watch()
        if finding is not None:
            log.warning("%s looks %s: %s", self.node.name, finding.symptom, "; ".join(finding.evidence))
        yield end_of_watch(None if finding is None else finding_event(finding))

    async def watch(self) -> Finding | None:
        """Probe until the first finding, and return it; None after ``max_watch`` seconds without one.

        The triggerer starts the watches of a fleet at the same moment. Each begins at its own part of the interval, so
        that their probes are spread over it (docs/decisions/0155).
        """
        watch = FailureDetector(Rules(silence_s=self.silence))
        clock = asyncio.get_running_loop().time
        ends_s = clock() + self.max_watch
        async with LoopLag() as lag, run_beside(self.watch_clock()) as clock_watch:
            await asyncio.sleep(self.interval * share_of_period(self.node.name))
            while (started_s := clock()) < ends_s:
                HEARTBEAT_WRITER.record(self.node.name)
                probe = await probe_node(self.node, self.probe_timeout)
                finding = watch.observe(probe, now_s=clock(), late_s=lag.take())
                if finding is not None:
                    return finding
                if clock_watch.done():
                    return clock_watch.result()
                # Timed from the start of the last probe, so that three refusals span two seconds and not more.
                await asyncio.sleep(max(0.0, started_s + self.interval - clock()))
        return None

    async def watch_clock(self) -> Finding:
        """Compare the clock regularly; returns when it is wrong. Never returns for a role whose clock does no harm."""
        every_s = clocks.EVERY_S.get(self.node.role, MAX_WATCH_S)
        # A fleet may have hundreds of brokers, and each check of one is a session over SSH.
        pause_s = every_s * share_of_period(self.node.name)
        while True:
            await asyncio.sleep(pause_s)
            pause_s = every_s
            looked_at = datetime.now(UTC)
            try:
                skew = clocks.describe_skew(await clocks.seconds_ahead(load_settings(), self.node))
            except (KintsugiError, OSError) as error:  # it must not end the watch of the node itself
                log.warning("the clock of %s could not be compared: %s", self.node.name, error)
                continue
            if skew is not None:
                now = datetime.now(UTC)
                return Finding(
                    self.node.name, Symptom.CLOCK_WRONG, looked_at, now, (f"{now:%H:%M:%S} {skew}",)
                )


def share_of_period(name: str) -> float:
    """Return a number from 0 to below 1 that is always the same for ``name``, and evenly spread over many names."""
    return zlib.crc32(name.encode()) / 2**32


@asynccontextmanager
async def run_beside(work: Coroutine[Any, Any, Outcome]) -> AsyncIterator[asyncio.Task[Outcome]]:
    """Run ``work`` beside the block; it is cancelled at the end of the block."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
