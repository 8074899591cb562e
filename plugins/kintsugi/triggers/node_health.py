"""Watch one node until it looks sick."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from kintsugi.fleet import Node, Role
from kintsugi.notify.heartbeat import PULSE
from kintsugi.observation import Finding
from kintsugi.probes.lag import LoopLag
from kintsugi.probes.protocols import PROBE_TIMEOUT_S, probe_node
from kintsugi.probes.watch import HUNG_AFTER_S, NodeWatch, Rules

MAX_WATCH_S = 6 * 3600.0


def finding_event(finding: Finding) -> dict[str, Any]:
    """A Finding as JSON: ``node symptom first_failed_at detected_at evidence``; times ISO 8601, UTC."""
    event = asdict(finding)
    event["symptom"] = str(finding.symptom)
    event["first_failed_at"] = finding.first_failed_at.isoformat()
    event["detected_at"] = finding.detected_at.isoformat()
    event["evidence"] = list(finding.evidence)
    return event


class NodeHealthTrigger(BaseTrigger):
    """Probes a node every ``interval`` seconds; its one event is a finding, or ``{"well": True}``.

    ``name``, ``address``, ``role`` and ``ssh_port`` describe the node, so that the triggerer needs no fleet
    file. After ``max_watch`` seconds without a finding the watch ends well: a run that never ends would
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
            "kintsugi.triggers.node_health.NodeHealthTrigger",
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
        payload = {"well": True} if finding is None else finding_event(finding)
        yield TriggerEvent(payload)  # type: ignore[no-untyped-call]

    async def watch(self) -> Finding | None:
        """The watch itself: the first finding, or None after ``max_watch`` seconds without one."""
        watch = NodeWatch(Rules(silence_s=self.silence))
        clock = asyncio.get_running_loop().time
        ends_s = clock() + self.max_watch
        async with LoopLag() as lag:
            while (started_s := clock()) < ends_s:
                PULSE.at(self.node.name)
                probe = await probe_node(self.node, self.probe_timeout)
                finding = watch.feed(probe, now_s=clock(), late_s=lag.take())
                if finding is not None:
                    return finding
                # Paced from the start of the last probe: three refusals then span two seconds, not more.
                await asyncio.sleep(max(0.0, started_s + self.interval - clock()))
        return None
