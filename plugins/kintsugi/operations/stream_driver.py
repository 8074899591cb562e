"""Exactly one streaming driver, under the init of the Spark master's node."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Fleet, Node, Role
from kintsugi.db.store import Store
from kintsugi.infra import ssh
from kintsugi.operations.context import Context
from kintsugi.probes.observe import init_state
from kintsugi.probes.stream import probe_stream

PROGRAM = "stream-trades"
WARM_UP_S = 180.0  # from the driver's start to its first committed batch; 130 were too few after a power cut
MOVES_S = 180.0  # a repair whose journal has stood still for longer isn't waited for
DESIRED = "stream_trades"


def home(fleet: Fleet) -> Node:
    """The node that carries the driver."""
    return fleet.of(Role.SPARK_MASTER)[0]


def should_run(context: Context) -> bool:
    """Whether somebody has submitted the stream; a rebuilt master starts the driver only then."""
    return desired_state(context.store)


def variables(context: Context) -> dict[str, bool]:
    """What Ansible is told of the driver whenever it configures a node."""
    return {"stream_enabled": should_run(context)}


def desired_state(store: Store) -> bool:
    """Whether ``store`` has it that the stream shall run."""
    desired = store.desired(DESIRED)
    return desired is not None and desired.value == "running"


def submit_driver(context: Context) -> str:
    """Declare that the stream shall run, and start its driver unless it runs; returns what was done.

    Raises StepFailed with the init's words when it can't be started.
    """
    context.store.set_desired(DESIRED, "running")
    return control_driver(context, "start")


def restart_if_desired(context: Context) -> str:
    """End the driver and start it again from its checkpoint, where somebody submitted the stream.

    Left alone while it warms up, and while a node is being repaired: nothing flows without that node, or all are short
    of processors, and a driver that is killed for it only begins to warm up again.
    """
    if not should_run(context):
        return "nobody submitted the stream; unpause stream_trades to start it"
    if nodes := _under_repair(context):
        return f"the driver is left alone while {', '.join(nodes)} is being repaired"
    _, uptime_s = init_state(control_driver(context, "status"))
    if uptime_s is not None and uptime_s < WARM_UP_S:
        return f"the driver began {uptime_s:.0f} s ago and is left to warm up"
    control_driver(context, "stop")
    return control_driver(context, "start")


def _under_repair(context: Context) -> list[str]:
    """Nodes whose repair moves: a line was written to its journal within the last MOVES_S seconds."""
    since = datetime.now(UTC) - timedelta(seconds=MOVES_S)
    incidents = context.store.incidents(50, open_only=True)
    return sorted(one.node for one in incidents if one.last_word > since)


def control_driver(context: Context, verb: str) -> str:
    """Say ``verb`` (start, stop, status) of the driver to its node's init; returns the init's answer."""
    node = home(context.fleet)
    config = context.settings.node_root(node.name) / "etc" / "supervisord.conf"
    argv = ["supervisorctl", "-c", str(config), verb, PROGRAM]
    answer = ssh.run_over_ssh(context.settings, node, argv, timeout=60)
    text = f"{answer.stdout}{answer.stderr}".strip()
    if answer.returncode != 0 and verb != "status" and "already started" not in text:
        raise StepFailed(
            f"{node.name}: '{verb} {PROGRAM}' answered {text!r}; read {PROGRAM}.log of that node"
        )
    return text


def wait_until_running(context: Context, deadline_s: float) -> str:
    """Wait until the master lists the application with cores; returns a sentence.

    Raises StepFailed with the last thing seen when ``deadline_s`` passes first.
    """
    until = time.monotonic() + deadline_s
    while True:
        probe = asyncio.run(probe_stream(home(context.fleet)))
        if probe.answer == "ok":
            return f"the stream runs: {probe.detail}"
        if time.monotonic() > until:
            raise StepFailed(f"no running stream after {deadline_s:.0f} s: {probe.detail}")
        time.sleep(1)
