"""A recovery in the environment `hosts`, with its guards and without Airflow: the host of a Spark worker falls silent.

Prints the seconds that each step took (``pytest -s``).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kintsugi.core.errors import GuardRefused
from kintsugi.core.incident import Action
from kintsugi.operations.context import RecoveryRef
from kintsugi.recovery import actions, assessment, guard_evaluation, report
from kintsugi.recovery.diagnosis import FailureMode
from tests.hosts.fleets import FleetOnHosts, fleet_on_hosts
from tests.hosts.machines import reason_unavailable
from tests.integration.test_fleet_heal import Clock

pytestmark = [
    pytest.mark.skipif(reason_unavailable() is not None, reason=f"no test hosts: {reason_unavailable()}"),
    pytest.mark.timeout(900),
]
WORKER, HOST = "spark-worker-1", "h1"
ROLES = {WORKER: "spark_worker", "spark-worker-2": "spark_worker", "spark-master-1": "spark_master"}


@pytest.fixture(scope="module")
def fleet() -> Iterator[FleetOnHosts]:
    with fleet_on_hosts("10.77.2", ROLES) as made:
        yield made


def begin_recovery(fleet: FleetOnHosts, run: str, clock: Clock) -> tuple[RecoveryRef, str]:
    """Confirm, evaluate the guards and decide, as a run of the watch does; returns the next task."""
    context = fleet.context
    ref = assessment.confirm_finding(
        context,
        node=WORKER,
        holder=run,
        finding=None,
        requested=Action.AUTO,
        dry_run=False,
        started_by="test",
    )
    clock.tell("confirmed")
    path = guard_evaluation.evaluate_guards(context, ref)
    clock.tell("guards evaluated")
    assert "decide" in path, [entry.message for entry in context.store.read_incident(ref.incident).entries]
    return ref, guard_evaluation.choose_path(context, ref, None)


def test_the_silent_host_of_a_worker_is_fenced_and_the_worker_rebuilt(fleet: FleetOnHosts) -> None:
    machine, platform, context = fleet.machine_of(WORKER), fleet.platform, fleet.context
    first = platform.incarnation(WORKER)
    machine.cut_off()
    clock = Clock()
    ref, path = begin_recovery(fleet, "recover_node/test", clock)
    assert actions._confirmed_mode(context, ref) is FailureMode.HOST_LOST
    assert path == "plan"
    plan = actions.plan_replacement(context, ref)
    clock.tell("planned")
    fleet.declare(agent=False)
    try:
        with pytest.raises(GuardRefused, match="fence_agent"):
            actions.fence_node(fleet.context, ref)
    finally:
        fleet.declare()
    incident = context.store.read_incident(ref.incident)
    assert incident.attempt_of(ref.holder) is None, "nothing was killed, so the attempt is withdrawn"
    assert (machine.init() is not None, fleet.fenced) == (True, [])
    clock.tell("refused without an agent")
    assert not report.record_outcome(context, ref).well, "a person is paged"

    ref, path = begin_recovery(fleet, "recover_node/test-2", clock)
    plan = actions.plan_replacement(context, ref)
    actions.fence_node(context, ref)
    assert (machine.init(), fleet.fenced) == (None, [f"off {HOST}"])
    clock.tell("fenced")
    actions.apply_plan(context, ref, plan)
    assert fleet.fenced == [f"off {HOST}", f"on {HOST}"]
    clock.tell("provisioned")
    actions.configure_node(context, ref)
    clock.tell("configured")
    actions.rejoin_node(context, ref)
    clock.tell("the node is ready")
    assert fleet.serves(WORKER)
    assert platform.incarnation(WORKER) not in (None, first)
    assert "root" in fleet.quarantined(WORKER)
