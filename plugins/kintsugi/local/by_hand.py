"""A start and join of a node by hand, timed: what a person does who has the commands ready at the prompt.

It is what `make mttr` divides its repairs by, so it has nothing of a recovery's own: no detection, no second opinion,
no guards, no judged plan, no records, no Airflow. Node, release, load and priority are the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from kintsugi.chaos.registry import FAULTS
from kintsugi.errors import StepFailed
from kintsugi.fleet import Node, Role, watch_of
from kintsugi.local.airflow import Airflow
from kintsugi.local.processes import wait_until
from kintsugi.niceness import first_in_line
from kintsugi.probes.observe import SERVICES
from kintsugi.recovery import act, assess, plan_policy, redundant, stream_driver
from kintsugi.recovery.case import Runtime
from kintsugi.release import in_force

HOLDER = "make mttr"
REASON = "started by hand, to measure it"
LIMIT_S = 1200.0  # for one hand start with all that belongs to it
SILENT_DEADLINE_S = 30.0
NOTICED_S = 20.0
SERVES_DEADLINE_S = 300.0
WATCH_DEADLINE_S = 120.0
# A service that its init starts again at once leaves a hand nothing to do; a frozen one has to be killed by somebody.
KINDS: Mapping[str, str] = {
    "process_death": "hung",
    "power_off": "power_off",
    "lost_volume": "volume_lost",
}


def start(doors: Runtime, airflow: Airflow, name: str, fault: str) -> dict[str, float]:
    """Break the node, start it by hand and make its data whole; returns seconds: each part, and ``by_hand_s``.

    The clock runs from the first command to ``redundant``; what makes the data whole comes after it. Raises StepFailed;
    the node's watch takes over then.
    """
    node, made = doors.fleet.node(name), FAULTS[KINDS[fault]]
    commands = prepared(doors, node, fault)
    with hands_on(doors, airflow, name):
        try:
            made.make(doors, [name])
            await_noticed(node)
            took = timed(doors, node, commands)
        finally:
            if made.take_back is not None:
                made.take_back(doors, [name])
        off_main_thread(lambda: act.make_whole(doors, node, HOLDER, compare=fault != "process_death"))
        doors.platform().discard(name)
    return took


def prepared(doors: Runtime, node: Node, fault: str) -> dict[str, Callable[[], None]]:
    """The commands at the prompt, by what they are called in the report; what they need is looked up already."""
    if fault == "process_death":
        platform, service = doors.platform(), SERVICES[node.role]
        return {"restart_s": lambda: platform.signal_service(node.name, service, "KILL")}
    addresses = plan_policy.addresses(doors.fleet.environment, node.name, with_volume=fault == "lost_volume")
    terraform, ansible = doors.terraform(), in_force.ansible_for(doors, node.name)
    desired = stream_driver.variables(doors)
    return {
        "terraform_s": lambda: terraform.replace(addresses),
        "ansible_s": lambda: off_main_thread(
            lambda: ansible.run("site.yml", limit=node.name, extra_vars=desired, timeout_s=300)
        ),
    }


def timed(doors: Runtime, node: Node, commands: Mapping[str, Callable[[], None]]) -> dict[str, float]:
    """Run the commands one after another, then wait until the node is redundant; seconds of each, and of all."""
    took, began = {}, time.monotonic()
    with first_in_line():  # as a recovery's steps: the ratio shall weigh what they do, not their priority
        for name, command in commands.items():
            started = time.monotonic()
            command()
            took[name] = round(time.monotonic() - started, 1)
        started = time.monotonic()
        redundant.wait(doors.settings, doors.fleet, node, SERVES_DEADLINE_S)
        took["join_s"] = round(time.monotonic() - started, 1)
    return {**took, "by_hand_s": round(time.monotonic() - began, 1)}


def off_main_thread(call: Callable[[], object]) -> None:
    """Call and wait. In the main thread ansible_runner would keep Ctrl-C for itself, also when it has ended.

    Interrupted, it waits for the call to end: a node half configured is taken over by its watch after that.
    """
    with ThreadPoolExecutor(1) as pool:  # the thread inherits the priority
        pool.submit(call).result()


def await_noticed(node: Node) -> None:
    """Wait until the node doesn't answer any more, and where it has peers until these have noticed.

    Kafka's controller fences a dead broker after 9 s, Cassandra's peers hold a dead node for down after up to 18 s, and
    before that no successor joins. A person comes later than that, so this waiting isn't charged to the hand.
    """
    if not wait_until(lambda: not assess.answers(node), SILENT_DEADLINE_S, pause=0.2):
        raise StepFailed(f"{node.name} still answers {SILENT_DEADLINE_S:.0f} s after it was broken")
    if node.role in (Role.KAFKA, Role.CASSANDRA):
        time.sleep(NOTICED_S)


@contextmanager
def hands_on(
    doors: Runtime, airflow: Airflow, name: str, *, holder: str = HOLDER, reason: str = REASON
) -> Iterator[None]:
    """Keep the recovery's hands off the node while the block runs; no incident and no question comes of it.

    1. The node's watch is paused: its trigger still fires, but no task of the run starts, so nothing of it runs beside
       the hand and takes processors from it.
    2. The lease is held. When the watch goes on, its run ends at `confirm` (LeaseHeld: skipped), before an incident is
       opened or a guard asked; so would a `recover_node` that somebody starts meanwhile. It is given back when the
       watch watches again: from then on the node is healed by whoever finds it sick, also after a failed start by hand.
    3. A maintenance flag tells the pages and the dead man's switch that somebody is at work. No guard gets to see it.

    Lease and flag end by themselves after LIMIT_S. A killed run leaves the watch paused besides, which the dead man's
    switch tells then; `lift` ends all three.
    """
    watch, until = watch_of(name), datetime.now(UTC) + timedelta(seconds=LIMIT_S)
    lease = doors.store.acquire_lease(name, holder, LIMIT_S, fresh_token=True)
    try:
        doors.store.set_maintenance(name, reason=reason, user=holder, until=until)
        airflow.pause(watch)
        try:
            yield
        finally:
            airflow.unpause(watch)
            await_watched(airflow, name)
    finally:
        doors.store.clear_maintenance(name, user=holder)
        doors.store.release(name, lease.token)


def lift(doors: Runtime) -> None:
    """Take back what a killed run left: leases and maintenance flags of HOLDER. Paused watches: unpause them first."""
    for name in doors.fleet.nodes:
        doors.store.give_back(name, HOLDER)
        doors.store.clear_maintenance(name, user=HOLDER)


def is_watched(airflow: Airflow, name: str) -> bool:
    """Whether the node's watch waits at its sensor: no finding is on its way. False when Airflow doesn't say."""
    watch = watch_of(name)
    try:
        run = airflow.youngest_run(watch)
        tasks = airflow.tasks(watch, run["dag_run_id"]) if run and run["state"] == "running" else []
    except StepFailed:
        return False
    return any(task.task_id == "health" and task.state == "deferred" for task in tasks)


def await_watched(airflow: Airflow, name: str) -> None:
    """Wait until the node is watched; raises StepFailed after WATCH_DEADLINE_S."""
    if not wait_until(lambda: is_watched(airflow, name), WATCH_DEADLINE_S, pause=0.5):
        raise StepFailed(
            f"nobody watches {name} after {WATCH_DEADLINE_S:.0f} s; look at {watch_of(name)} in Airflow"
        )
