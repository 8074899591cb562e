"""A healthy broker and a healthy Cassandra node replaced on purpose, on six real servers, without Airflow.

Work with acks=all and at LOCAL_QUORUM goes on through all of it.
"""

from __future__ import annotations

import pytest

from kintsugi.core.errors import GuardRefused
from kintsugi.core.incident import Outcome
from kintsugi.operations import readiness
from kintsugi.operations.context import Context, RecoveryRef
from kintsugi.probes.observe import SERVICES
from kintsugi.recovery import actions, assessment, guard_evaluation, report
from kintsugi.replacement import drain, permission, steps
from kintsugi.replacement.steps import ReplacementState
from tests.system.test_release import work

pytestmark = pytest.mark.timeout(900)
GAP_S = 30.0  # as after a roll-out's restart: the drivers notice that a node is gone


@pytest.fixture(autouse=True)
def _no_airflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permission, "watch_reasons", lambda _: [])


def drain_node(context: Context, name: str, holder: str) -> str:
    return steps.drain_node(context, name, holder, started_by="olga", approved_by=None, what="a new server")


def recover(context: Context, name: str, holder: str, action: str) -> report.IncidentRecord:
    """What the task group of a recovery does, task by task, but for the synthetic trade."""
    ref = assessment.confirm_finding(
        context, node=name, holder=holder, finding=None, requested=action, dry_run=False, started_by="olga"
    )
    assert guard_evaluation.evaluate_guards(context, ref) == ["archive_logs", "decide"]
    assert guard_evaluation.choose_path(context, ref, None) == "plan"
    saved = actions.plan_replacement(context, ref)
    actions.fence_node(context, ref)
    actions.apply_plan(context, ref, saved)
    actions.configure_node(context, ref)
    print(actions.rejoin_node(context, ref))
    print(actions.verify_recovery(context, ref))
    with context.step(RecoveryRef(ref.incident, name, holder), "canary"):
        pass
    return report.record_outcome(context, ref)


@pytest.mark.parametrize(
    ("name", "action"), [("kafka-2", "rebuild_node"), ("kafka-3", "rebuild"), ("cassandra-2", "rebuild_node")]
)
def test_a_healthy_node_is_replaced_and_the_work_goes_on(context: Context, name: str, action: str) -> None:
    holder, platform = f"replace_node/{name}", context.platform()
    before = platform.incarnation(name)
    with work(context) as pulses:
        assert steps.check_replacement(context, name, holder) == []
        print(drain_node(context, name, holder))
        other = "kafka-1" if name.startswith("kafka") else "cassandra-1"
        assert steps.check_replacement(context, other, "replace_node/another"), "one node at a time"
        assert recover(context, name, holder, action).well
        result = steps.finish_replacement(context, name, holder, dry_run=False, refusal=None)
    print(result.text, [pulse.to_json() for pulse in pulses])
    assert result.state is ReplacementState.REPLACED
    assert platform.incarnation(name) not in (None, before)
    assert context.store.read_lease(name) is None
    assert context.store.read_maintenance(name) == []
    assert context.store.pending_repairs() == {}
    assert [(pulse.name, pulse.failures) for pulse in pulses if pulse.failures] == []
    assert max(pulse.longest_s for pulse in pulses) < GAP_S


@pytest.mark.parametrize("name", ["kafka-1", "cassandra-1"])
def test_a_drained_node_that_is_given_up_serves_again(
    context: Context, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    holder, node = f"replace_node/{name}", context.fleet.node(name)
    drain_node(context, name, holder)
    drain_node(context, name, holder)  # a task that was killed after the stop and runs again
    ref = assessment.confirm_finding(
        context, node=name, holder=holder, finding=None, requested="rebuild", dry_run=False
    )
    context.store.set_maintenance(name, reason="somebody works on it", user="ann")
    assert guard_evaluation.evaluate_guards(context, ref) == ["stand_down"]
    assessment.close_without_action(context, ref)
    assert report.record_outcome(context, ref).well
    result = steps.finish_replacement(context, name, holder, dry_run=False, refusal=None)
    context.store.clear_maintenance(name, user="ann")
    assert result.state is ReplacementState.REFUSED
    assert context.store.read_incident(ref.incident).outcome is Outcome.REFUSED
    print(readiness.wait_until_ready(context.settings, context.fleet, node, 150))


def test_a_second_node_of_a_role_is_not_drained(context: Context) -> None:
    """Its peer was stopped by hand, so that no incident and no flag tells of it."""
    stopped, other = context.fleet.node("kafka-1"), context.fleet.node("kafka-2")
    drain.stop_service(context, stopped)
    try:
        reasons = steps.check_replacement(context, other.name, "replace_node/1")
        assert any("kafka-1" in reason for reason in reasons)
        with pytest.raises(GuardRefused):
            drain_node(context, other.name, "replace_node/1")
        config = context.settings.node_root(other.name) / "etc" / "supervisord.conf"
        state = context.platform().run(
            other.name, ["supervisorctl", "-c", str(config), "status", SERVICES[other.role]]
        )
        assert "RUNNING" in state
    finally:
        drain.start_service(context, stopped)
    print(readiness.wait_until_ready(context.settings, context.fleet, stopped, 150))
