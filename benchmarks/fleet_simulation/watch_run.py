"""The watches of a whole fleet in one event loop, as in one triggerer: the production trigger, probe and detector.

``python -m benchmarks.fleet_simulation.watch_run <seconds>`` watches every node of the fleet of its environment. It
prints ``watching`` when all watches have probed once, then what it measured as JSON. Nothing of the product is changed:
a probe is recorded where the trigger calls it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from kintsugi.airflow_ext.triggers import node_health
from kintsugi.airflow_ext.triggers.node_health import NodeHealthTrigger
from kintsugi.core.fleet import Fleet, Node
from kintsugi.core.observation import ProbeResult
from kintsugi.core.settings import load_settings
from kintsugi.probes.protocols import Probe, probe_node

LAG_TICK_S = 0.05


@dataclass
class WatchRecorder:
    """What is seen of the watches: starts of probes by node, their latencies and results, findings, the loop's lag."""

    nodes: int
    starts_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    latencies_s: list[float] = field(default_factory=list)
    results: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    findings: list[dict[str, Any]] = field(default_factory=list)
    lags_s: list[float] = field(default_factory=list)
    all_probed: asyncio.Event = field(default_factory=asyncio.Event)

    async def probe(self, node: Node, timeout_s: float) -> Probe:
        """Probe as the product does, and record when and how it ended."""
        self.starts_s[node.name].append(time.monotonic())
        probe = await probe_node(node, timeout_s)
        if probe.answer is ProbeResult.OK:
            self.latencies_s.append(probe.latency_s)
        self.results[probe.answer] += 1
        if len(self.starts_s) == self.nodes:
            self.all_probed.set()
        return probe

    async def watch(self, trigger: NodeHealthTrigger) -> None:
        """Run the trigger until its event, and record the finding with the time at which it is known."""
        async for event in trigger.run():
            xcoms = getattr(event, "xcoms", None)
            for finding in (xcoms or {}).values():
                self.findings.append({**finding, "at": time.time()})

    async def measure_lag(self) -> None:
        """Record every LAG_TICK_S how late the event loop calls a timer."""
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + LAG_TICK_S
            await asyncio.sleep(LAG_TICK_S)
            self.lags_s.append(max(0.0, loop.time() - due_s))


def trigger_for(node: Node) -> NodeHealthTrigger:
    """Return the trigger with which the sensor of ``watch_<node>`` defers."""
    return NodeHealthTrigger(name=node.name, address=node.address, role=node.role, ssh_port=node.ssh_port)


async def watch_fleet(fleet: Fleet, seconds: float) -> dict[str, Any]:
    """Watch every node for ``seconds`` after the first probe of all; returns the measurements."""
    recorder = WatchRecorder(len(fleet.nodes))
    with mock.patch.object(node_health, "probe_node", recorder.probe):
        watches = [asyncio.create_task(recorder.watch(trigger_for(node))) for node in fleet]
        await recorder.all_probed.wait()
        print("watching", flush=True)
        used_s, started_s, probes = _processor_s(), time.monotonic(), sum(recorder.results.values())
        lag = asyncio.create_task(recorder.measure_lag())
        await asyncio.sleep(seconds)
        passed_s = time.monotonic() - started_s
        own_s, children_s, waited_s = (
            after - before for after, before in zip(_processor_s(), used_s, strict=True)
        )
        probes = sum(recorder.results.values()) - probes
        for task in (lag, *watches):
            task.cancel()
        await asyncio.gather(lag, *watches, return_exceptions=True)
    return {
        "seconds": passed_s,
        "probes": probes,
        "cpu_s": own_s,
        "cpu_of_ssh_s": children_s,
        "waited_s": waited_s,
        "starts_s": recorder.starts_s,
        "since_s": started_s,
        "latencies_s": recorder.latencies_s,
        "lags_s": recorder.lags_s,
        "results": dict(recorder.results),
        "findings": recorder.findings,
    }


def _processor_s() -> tuple[float, float, float]:
    """Processor time of this process and of its ended children, and how long our thread waited for it, in seconds."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    _, waited_ns, _ = Path("/proc/thread-self/schedstat").read_text().split()
    return time.process_time(), children.ru_utime + children.ru_stime, int(waited_ns) / 1e9


def main(words: Sequence[str] = sys.argv[1:]) -> None:
    """Watch for as many seconds as the first argument says."""
    logging.disable(logging.WARNING)  # Airflow logs to standard output, where our caller reads
    fleet = load_settings().fleet
    print(json.dumps(asyncio.run(watch_fleet(fleet, float(words[0])))), flush=True)


if __name__ == "__main__":
    main()
