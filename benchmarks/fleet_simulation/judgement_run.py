"""The question that each judgement puts to the whole fleet, in a process of its own, as a task of a recovery does it.

``python -m benchmarks.fleet_simulation.judgement_run`` asks the fleet of its environment three times which nodes are
silent, and prints for each time the seconds it took, the processor time, the silent nodes, and for how many seconds the
event loop was blocked. Above `fact_gathering.OWN_LAG_S` the guards would take the control plane for starved.
"""

from __future__ import annotations

import asyncio
import json
import time

from kintsugi.core.fleet import Fleet
from kintsugi.core.settings import load_settings
from kintsugi.probes.event_loop_lag import LoopLag
from kintsugi.probes.protocols import silent_nodes

TIMES = 3


async def ask_fleet(fleet: Fleet) -> dict[str, object]:
    """Return what one question to all nodes found and cost; times in seconds."""
    began_s, used_s = time.monotonic(), time.process_time()
    async with LoopLag() as lag:
        silent = await silent_nodes(fleet)
        return {
            "s": time.monotonic() - began_s,
            "cpu_s": time.process_time() - used_s,
            "blocked_s": lag.take(),
            "silent": sorted(silent),
        }


def main() -> None:
    """Ask, and print the answers as JSON."""
    fleet = load_settings().fleet
    print(json.dumps([asyncio.run(ask_fleet(fleet)) for _ in range(TIMES)]), flush=True)


if __name__ == "__main__":
    main()
