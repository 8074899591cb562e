"""A timed start and join of a node by hand, as a person does it with the commands ready.

`make mttr` divides its recoveries by it. So it has nothing of a recovery: no detection, no second observation, no
guards of a recovery, no checked plan, no records, no Airflow. Node, release, load and priority are the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from benchmarks.allowed_fault import AllowedFault
from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Node, Role
from kintsugi.core.process_priority import first_in_line
from kintsugi.core.processes import wait_until
from kintsugi.infra.airflow_client import Airflow
from kintsugi.operations import readiness, stream_driver
from kintsugi.operations.context import Context
from kintsugi.operations.manual_mode import LIMIT_S, manual_mode
from kintsugi.probes.observe import SERVICES
from kintsugi.recovery import actions, assessment, plan_policy
from kintsugi.releases import assignment

HOLDER = "make mttr"
REASON = "started by hand for a measurement"
SILENT_DEADLINE_S = 30.0
NOTICED_S = 20.0
SERVES_DEADLINE_S = 300.0
# An init starts a killed service at once, so nothing is left to do by hand; a frozen one must be killed first.
KINDS: Mapping[str, str] = {
    "process_death": "hung",
    "power_off": "power_off",
    "lost_volume": "volume_lost",
}


def start_manually(context: Context, airflow: Airflow, allowed: AllowedFault, fault: str) -> dict[str, float]:
    """Break the node by the allowed fault, start it by hand and restore its consistency.

    ``allowed``: of kind ``KINDS[fault]``, for one node. Returns seconds: each part, and ``by_hand_s``. The clock runs
    from the first command to ``redundant``; the data repair comes after it. Raises StepFailed; the node's
    watch takes over then.
    """
    (name,) = allowed.names
    node = context.fleet.node(name)
    commands = prepare_commands(context, node, fault)
    with manual_mode(context, airflow, name, holder=HOLDER, reason=REASON):
        with allowed.inject_fault(longest_s=LIMIT_S):
            await_outage_noticed(node)
            took = time_commands(context, node, commands)
        call_in_thread(
            lambda: actions.restore_consistency(context, node, HOLDER, compare=fault != "process_death")
        )
        context.platform().discard(name)
    return took


def prepare_commands(context: Context, node: Node, fault: str) -> dict[str, Callable[[], None]]:
    """Return the commands by their names in the report; what they need is looked up before the clock starts."""
    if fault == "process_death":
        platform, service = context.platform(), SERVICES[node.role]
        return {"restart_s": lambda: platform.signal_service(node.name, service, "KILL")}
    addresses = plan_policy.node_addresses(
        context.fleet.environment, node.name, with_volume=fault == "lost_volume"
    )
    terraform, ansible = context.terraform(), assignment.ansible_for(context, node.name)
    desired = stream_driver.driver_variables(context)
    return {
        "terraform_s": lambda: terraform.replace(addresses),
        "ansible_s": lambda: call_in_thread(
            lambda: ansible.run("site.yml", limit=node.name, extra_vars=desired, timeout_s=300)
        ),
    }


def time_commands(
    context: Context, node: Node, commands: Mapping[str, Callable[[], None]]
) -> dict[str, float]:
    """Run the commands one after another, then wait until the node is ready; returns seconds of each, and of all."""
    took, began = {}, time.monotonic()
    with first_in_line():  # as the steps of a recovery: the ratio must not depend on priorities
        for name, command in commands.items():
            started = time.monotonic()
            command()
            took[name] = round(time.monotonic() - started, 1)
        started = time.monotonic()
        readiness.wait_until_ready(context.settings, context.fleet, node, SERVES_DEADLINE_S)
        took["join_s"] = round(time.monotonic() - started, 1)
    return {**took, "by_hand_s": round(time.monotonic() - began, 1)}


def call_in_thread(call: Callable[[], object]) -> None:
    """Call in another thread and wait. In the main thread ansible_runner would keep handling Ctrl-C after its end.

    If interrupted, it waits for the call to end. Then the node's watch takes over a node that is half configured.
    """
    with ThreadPoolExecutor(1) as pool:  # the thread inherits the priority
        pool.submit(call).result()


def await_outage_noticed(node: Node) -> None:
    """Wait until the node doesn't answer any more, and until its peers, if it has any, have noticed.

    Kafka's controller fences a dead broker after 9 s. Cassandra's peers mark a dead node as down after up to 18 s. No
    successor joins before that. A person comes later, so this time does not count for the hand start.
    """
    if not wait_until(lambda: not assessment.is_responding(node), SILENT_DEADLINE_S, pause=0.2):
        raise StepFailed(f"{node.name} still answers {SILENT_DEADLINE_S:.0f} s after it was broken")
    if node.role in (Role.KAFKA, Role.CASSANDRA):
        time.sleep(NOTICED_S)
