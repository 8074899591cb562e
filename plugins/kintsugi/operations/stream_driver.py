"""Control the streaming driver: exactly one, run by the init of the Spark master's node."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Fleet, Node, Role
from kintsugi.db.store import Store
from kintsugi.operations.context import Context
from kintsugi.operations.node_programs import control_program
from kintsugi.probes.observe import parse_init_state
from kintsugi.probes.stream import probe_stream

PROGRAM = "stream-trades"
WARM_UP_S = (
    180.0  # from the driver's start to its first committed batch; 130 s were too few after a power cut
)
MOVES_S = 180.0  # a recovery without a new journal entry for this long is not waited for
DESIRED = "stream_trades"


def driver_node(fleet: Fleet) -> Node:
    """Return the node that runs the driver."""
    return fleet.of(Role.SPARK_MASTER)[0]


def should_run(context: Context) -> bool:
    """Whether the stream is submitted; a rebuilt master starts the driver only then."""
    return desired_state(context.store)


def driver_variables(context: Context) -> dict[str, bool]:
    """Return the variables for the driver that Ansible gets when it configures a node."""
    return {"stream_enabled": should_run(context)}


def desired_state(store: Store) -> bool:
    """Whether the stream should run, by ``store``."""
    desired = store.read_desired(DESIRED)
    return desired is not None and desired.value == "running"


def submit_driver(context: Context) -> str:
    """Declare that the stream should run, and start its driver unless it runs; returns what was done.

    Raises StepFailed with the init's answer if it can't be started.
    """
    context.store.set_desired(DESIRED, "running")
    return control_driver(context, "start")


def restart_if_desired(context: Context) -> str:
    """Restart the driver from its checkpoint if the stream is submitted; returns what was done.

    It is not restarted while it warms up or while a node is being recovered. The stream may stand still because of
    that node or because processor time is short, and a restart would only add another warm-up.
    """
    if not should_run(context):
        return "not restarted: the stream is not submitted; unpause stream_trades to start it"
    if nodes := _under_repair(context):
        return f"the driver is not restarted: {', '.join(nodes)} is being recovered"
    _, uptime_s = parse_init_state(control_driver(context, "status"))
    if uptime_s is not None and uptime_s < WARM_UP_S:
        return f"the driver is not restarted: it started {uptime_s:.0f} s ago and is still warming up"
    control_driver(context, "stop")
    return control_driver(context, "start")


def _under_repair(context: Context) -> list[str]:
    """Return the nodes whose recovery makes progress: a journal entry was written in the last MOVES_S seconds."""
    since = datetime.now(UTC) - timedelta(seconds=MOVES_S)
    incidents = context.store.read_incidents(None, open_only=True)
    return sorted(one.node for one in incidents if one.last_word > since)


def control_driver(context: Context, verb: str) -> str:
    """Give the command ``verb`` (start, stop, status) for the driver to its node's init; returns the answer."""
    return control_program(context, driver_node(context.fleet), verb, PROGRAM, 60)


def wait_until_running(context: Context, deadline_s: float) -> str:
    """Wait until the master lists the application with cores; returns a sentence.

    Raises StepFailed with the last state after ``deadline_s``.
    """
    until = time.monotonic() + deadline_s
    while True:
        probe = asyncio.run(probe_stream(driver_node(context.fleet)))
        if probe.answer == "ok":
            return f"the stream runs: {probe.detail}"
        if time.monotonic() > until:
            raise StepFailed(f"the stream does not run after {deadline_s:.0f} s: {probe.detail}")
        time.sleep(1)
