"""Watch one node until it looks sick."""

from __future__ import annotations

import asyncio
import logging
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
    """A Finding as JSON: ``node symptom first_failed_at detected_at evidence late_s``; times ISO 8601, UTC."""
    event = asdict(finding)
    event["symptom"] = str(finding.symptom)
    event["first_failed_at"] = finding.first_failed_at.isoformat()
    event["detected_at"] = finding.detected_at.isoformat()
    event["evidence"] = list(finding.evidence)
    return event


class NodeHealthTrigger(BaseTrigger):
    """Probes a node every ``interval`` seconds; it ends the task with its finding.

    Beside that, and more seldom, the clock of a service that lives by it is compared (``kintsugi.probes.clock_skew``).
    ``name``, ``address``, ``role`` and ``ssh_port`` describe the node, so that the triggerer needs no fleet
    file. After ``max_watch`` seconds without a finding the task is skipped: a run that never ends would
    never see a new version of its DAG.
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
        """The class path and the keyword arguments that make this trigger again."""
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
        """The watch itself: the first finding, or None after ``max_watch`` seconds without one."""
        watch = FailureDetector(Rules(silence_s=self.silence))
        clock = asyncio.get_running_loop().time
        ends_s = clock() + self.max_watch
        async with LoopLag() as lag, beside(self.watch_clock()) as clock_watch:
            while (started_s := clock()) < ends_s:
                HEARTBEAT_WRITER.record(self.node.name)
                probe = await probe_node(self.node, self.probe_timeout)
                finding = watch.observe(probe, now_s=clock(), late_s=lag.take())
                if finding is not None:
                    return finding
                if clock_watch.done():
                    return clock_watch.result()
                # Paced from the start of the last probe: three refusals then span two seconds, not more.
                await asyncio.sleep(max(0.0, started_s + self.interval - clock()))
        return None

    async def watch_clock(self) -> Finding:
        """Compare the clock now and then; returns when it is wrong. Never, for a role whose clock does no harm."""
        every_s = clocks.EVERY_S.get(self.node.role)
        while True:
            await asyncio.sleep(MAX_WATCH_S if every_s is None else every_s)
            looked_at = datetime.now(UTC)
            try:
                off = clocks.is_skewed(await clocks.ahead_s(load_settings(), self.node))
            except (
                KintsugiError,
                OSError,
            ) as error:  # a look that fails must not end the watch over the node itself
                log.warning("the clock of %s could not be compared: %s", self.node.name, error)
                continue
            if off is not None:
                now = datetime.now(UTC)
                return Finding(
                    self.node.name, Symptom.CLOCK_WRONG, looked_at, now, (f"{now:%H:%M:%S} {off}",)
                )


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, Outcome]) -> AsyncIterator[asyncio.Task[Outcome]]:
    """Let ``work`` run as long as the block does; it is cancelled at the end."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
