"""The free space on a node's volume, read on the node itself, and when it is too little."""

from __future__ import annotations

import asyncio
import os

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Node
from kintsugi.core.observation import Headroom
from kintsugi.core.settings import Settings
from kintsugi.infra import ssh

GIB = 2**30
ASK_TIMEOUT_S = 3.0


async def read_headroom(settings: Settings, node: Node) -> Headroom | None:
    """Return the free and total space of the volume of ``node``; None if the node can't be asked. Takes at most 3 s."""
    argv = ["df", "-P", "-B1", str(settings.node_volume(node.name))]
    try:
        done = await asyncio.to_thread(ssh.run_over_ssh, settings, node, argv, ASK_TIMEOUT_S)
    except (StepFailed, OSError):
        return None
    return parse_df(done.stdout) if done.returncode == os.EX_OK else None


def parse_df(output: str) -> Headroom | None:
    """Parse the output of ``df -P -B1`` for one file system; None if it is something else."""
    fields = output.strip().splitlines()[-1].split() if output.strip() else []
    if len(fields) < 6 or not (fields[1].isdigit() and fields[3].isdigit()):
        return None
    return Headroom(free=int(fields[3]), size=int(fields[1]))


def shortage_of_room(room: Headroom) -> str | None:
    """Return a sentence if the volume is nearly full, else None.

    Nearly full means that less than a tenth is free, but the limit is at least 1 and at most 20 GiB. Compaction, a
    replayed log and the stream to a rebuilt peer need gigabytes at once, but never a tenth of a terabyte.
    """
    limit = max(GIB, min(room.size // 10, 20 * GIB))
    if room.free >= limit:
        return None
    return f"volume nearly full: {room.free / GIB:.1f} of {room.size / GIB:.1f} GiB free, {limit / GIB:.1f} are needed"
