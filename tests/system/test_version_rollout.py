"""Kafka's version changed by releases on three real brokers, without Airflow: raised, rolled back, recovered between.

What a broker runs is asked of its process and of the broker, never of our records.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks import release_traffic
from benchmarks.release_trials import build_changed_release, change_file
from benchmarks.version_drill.broker_versions import (
    VersionWatch,
    ask_brokers,
    read_process_versions,
    versions_seen,
)
from benchmarks.version_drill.run import listener_mistake, lower_kafka, used_level
from kintsugi.core.fleet import Node, Role
from kintsugi.environments.local.node_identity import kafka_cluster_id
from kintsugi.infra.terraform import Terraform
from kintsugi.operations import readiness, stream_driver
from kintsugi.operations.context import Context
from kintsugi.operations.kafka_voters import rejoin_voter
from kintsugi.recovery.planned_stop import stop_reasons
from kintsugi.releases import assignment, rollout_steps
from kintsugi.releases.archive import Release
from tests.system.conftest import serving_fleet
from tests.system.test_release import roll_out

pytestmark = pytest.mark.timeout(2400)
OLD, NEW = "4.3.1", "4.4.0"


@pytest.fixture(scope="module")
def context() -> Iterator[Context]:
    with serving_fleet("127.60", ("kafka",)) as context:
        yield context


@pytest.fixture(scope="module")
def own(context: Context) -> Release:
    """The release of this checkout, which the brokers run at first."""
    good = context.store.last_known_good()
    assert good is not None, "the fleet has no known-good release"
    return assignment.open_release(context, good.digest)


def running(context: Context) -> dict[str, str | None]:
    return read_process_versions(context.settings)


def everywhere(context: Context, version: str) -> dict[str, str]:
    return dict.fromkeys((node.name for node in context.fleet.of(Role.KAFKA)), version)


def rebuild(context: Context, node: Node) -> None:
    """What a recovery does for a node whose disk is lost: from the release that the node ran."""
    terraform = Terraform(context.settings)
    addresses = [f'module.{kind}["{node.name}"].terraform_data.this' for kind in ("node", "volume")]
    terraform.apply(terraform.plan(replace=addresses, targets=addresses))
    assignment.ansible_for(context, node.name).run(
        "site.yml", limit=node.name, extra_vars=stream_driver.driver_variables(context), timeout_s=400
    )
    rejoin_voter(context.fleet, node, kafka_cluster_id(context.settings), timeout_s=120)
    readiness.wait_until_ready(context.settings, context.fleet, node, 150)


def test_a_raised_version_is_rolled_back_when_a_probe_fails(context: Context, own: Release) -> None:
    used = used_level(ask_brokers(context.fleet))
    assert running(context) == everywhere(context, NEW)
    lower = build_changed_release(context, own, "lower", lower_kafka)
    with release_traffic.open_record_beat(context.fleet) as produce:
        with release_traffic.run_traffic({"acks=all": (0.1, produce)}) as traffic:
            lowered = roll_out(context, "lower", lower.digest)
            assert lowered.well, lowered.text
            assert running(context) == everywhere(context, OLD)

            mistake = listener_mistake("kafka-3")
            broken = build_changed_release(context, own, "broken", lambda tree: change_file(tree, mistake))
            with VersionWatch(context.settings) as watch:
                raised = roll_out(context, "raise", broken.digest)
        print(raised.text, traffic[0].to_json(), watch.changes)
    assert context.store.read_deployment("raise").state == "returned"
    assert context.store.release_record(broken.digest).bad_at is not None
    assert all(NEW in versions for versions in versions_seen(watch.changes).values())
    assert running(context) == everywhere(context, OLD)
    assert {record.digest for record in context.store.node_releases().values()} == {lower.digest}
    assert used_level(ask_brokers(context.fleet)) == used
    assert traffic[0].failures == []


def test_a_broker_lost_in_the_middle_of_a_roll_out_gets_its_own_version(
    context: Context, own: Release
) -> None:
    """One broker is raised. One of each version loses its disk; then the raised one is rolled back all the same."""
    run, (raised, low, _) = "middle", context.fleet.of(Role.KAFKA)
    rollout_steps.prepare_rollout(context, run, own.digest)
    rollout_steps.plan_rollout(context, run)
    rollout_steps.update_node(context, run, raised.name, stop_reasons)
    rollout_steps.verify_update(context, run, raised.name, stop_reasons)
    mixed = everywhere(context, OLD) | {raised.name: NEW}
    assert running(context) == mixed
    for node in (low, raised):
        rebuild(context, node)
        assert running(context) == mixed
    context.store.break_deployment(run, "the test ends it here")
    print(rollout_steps.roll_back(context, run, stop_reasons))
    rollout_steps.finish_rollout(context, run)
    assert running(context) == everywhere(context, OLD)


def test_the_raise_that_holds(context: Context, own: Release) -> None:
    used = used_level(ask_brokers(context.fleet))
    raised = roll_out(context, "again", own.digest)
    assert raised.well, raised.text
    assert running(context) == everywhere(context, NEW)
    assert used_level(ask_brokers(context.fleet)) == used
