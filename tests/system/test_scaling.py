"""A broker and a Cassandra node are added to six real servers and removed again, without Spark and Airflow.

Work with acks=all and at LOCAL_QUORUM goes on through all of it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.chaos.guard import rollout_reasons
from kintsugi.core.connections import store_dsn
from kintsugi.core.errors import GuardRefused
from kintsugi.core.fleet import Role
from kintsugi.core.membership import Membership, write_membership
from kintsugi.core.settings import KAFKA_CONTROLLER_PORT, Settings
from kintsugi.db.store import Store
from kintsugi.environments.local import node as nodes
from kintsugi.infra.terraform import Terraform
from kintsugi.operations.context import Context
from kintsugi.operations.kafka_voters import voter_ids
from kintsugi.pipeline.schema import ensure_topics_and_tables
from kintsugi.probes.peers import query_cassandra
from kintsugi.releases import bootstrap, rollout_claim
from kintsugi.scaling import permission, state, steps
from kintsugi.scaling.steps import ScalingState
from kintsugi.wire.kafka_quorum import find_leader
from tests.installations import open_directory
from tests.integration.test_fleet_heal import postgres
from tests.system.conftest import small_installation
from tests.system.test_release import work

pytestmark = pytest.mark.timeout(1800)
GAP_S = 30.0
RATE = 50 * 2**20


@dataclass
class Airflow:
    """Stands in for Airflow: which watches were started and ended."""

    watched: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def parse_again(self, dag_id: str) -> None: ...

    def await_dag(self, dag_id: str, seconds: float) -> None: ...

    def unpause(self, dag_id: str) -> None:
        self.watched.append(dag_id)

    def end_dag(self, dag_id: str) -> None:
        self.ended.append(dag_id)


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with open_directory() as directory:
        made = small_installation(directory, "127.44")
        try:
            with postgres(made):
                yield made
        finally:
            for name in made.known_fleet.nodes:
                nodes.destroy_node(made, name)


@pytest.fixture(scope="module")
def context(settings: Settings) -> Context:
    context = Context(settings, settings.fleet, Store(store_dsn(settings)))
    context.store.migrate()
    write_membership(settings.control, Membership(settings.declared_fleet.nodes))
    Terraform(settings).apply_all()
    bootstrap.CONVERGE_S = 1200.0
    bootstrap.start_fleet(context)
    ensure_topics_and_tables(settings.fleet)
    print(bootstrap.mark_first_known_good(context))
    return context


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Airflow:
    made = Airflow()
    plane = SimpleNamespace(airflow=made, renew_collector=lambda: None)
    monkeypatch.setattr(steps, "ControlPlane", lambda _: plane)
    monkeypatch.setattr(permission, "_watch_reasons", lambda *_: [])
    return made


def declare(settings: Settings, text: str, *, without: str = "") -> None:
    kept = settings.fleet_file.read_text()
    if without:
        kept = re.sub(rf"^- name: {without}\n(?:  .*\n)+", "", kept, flags=re.MULTILINE)
    settings.fleet_file.write_text(kept + text)


def entry(name: str, role: str, address: str) -> str:
    return f"- name: {name}\n  role: {role}\n  address: {address}\n"


def run(context: Context, holder: str) -> steps.ScalingResult:
    """What the DAG does, task by task, each with a context of its own."""

    def own() -> Context:
        return replace(context, fleet=context.settings.fleet)

    plan, reasons = steps.check_scaling(own(), holder)
    print(plan, reasons)
    assert not reasons
    steps.begin_scaling(own(), holder, "olga")
    assert rollout_reasons(own()), "no fault is injected meanwhile"
    for role in (Role.KAFKA, Role.CASSANDRA):
        print(steps.add_nodes(own(), holder, role))
        if role is Role.KAFKA:
            print(steps.spread_partitions(own(), holder, RATE))
        print(steps.remove_nodes(own(), holder, role))
    print(steps.clean_up(own(), holder))
    print(steps.settle(own(), holder))
    return steps.finish_scaling(own(), holder, dry_run=False, refusal=None)


def voters(context: Context) -> set[int]:
    brokers = context.settings.fleet.of(Role.KAFKA)
    _, quorum = find_leader([f"{node.address}:{KAFKA_CONTROLLER_PORT}" for node in brokers])
    return voter_ids(quorum)


async def ring(context: Context) -> dict[str, str]:
    """The status of each address in the gossip of the first node, without those that have left."""
    first = context.settings.fleet.of(Role.CASSANDRA)[0]
    rows: Any = await query_cassandra(first, "SELECT address, status_with_port FROM system_views.gossip_info")
    states = {row["address"]: row["status_with_port"].partition(",")[0] for row in rows}
    return {address: status for address, status in states.items() if status != "LEFT"}


def test_a_broker_and_a_cassandra_node_come_and_the_work_goes_on(context: Context, airflow: Airflow) -> None:
    settings, holder = context.settings, "scale_fleet/grow"
    declare(
        settings,
        entry("kafka-4", "kafka", "127.44.1.4") + entry("cassandra-4", "cassandra", "127.44.2.4"),
    )
    assert "kafka-4" not in settings.fleet.nodes, "an edit alone adds nothing"
    with work(context) as pulses:
        result = run(context, holder)
    print(result.text, [pulse.to_json() for pulse in pulses])
    assert result.state is ScalingState.DONE
    assert {"kafka-4", "cassandra-4"} <= settings.fleet.nodes.keys()
    assert voters(context) == {1, 2, 3}
    assert asyncio.run(ring(context)) == {
        node.address: "NORMAL" for node in settings.fleet.of(Role.CASSANDRA)
    }
    assert airflow.watched == ["watch_kafka-4", "watch_cassandra-4"]
    assert context.store.read_lease(rollout_claim.ROLL_OUT) is None
    assert all(context.store.read_maintenance(name) == [] for name in settings.fleet.nodes)
    good = context.store.last_known_good()
    assert good is not None
    assert {record.digest for record in context.store.node_releases().values()} == {good.digest}
    assert [(pulse.name, pulse.failures) for pulse in pulses if pulse.failures] == []
    assert max(pulse.longest_s for pulse in pulses) < GAP_S


def test_a_role_does_not_become_too_small(context: Context, airflow: Airflow) -> None:
    before = context.settings.fleet_file.read_text()
    declare(context.settings, "", without="kafka-3")
    declare(context.settings, "", without="kafka-4")
    try:
        assert steps.check_scaling(replace(context, fleet=context.settings.fleet), "scale_fleet/1")[1]
    finally:
        context.settings.fleet_file.write_text(before)


def test_another_run_is_refused_while_one_holds_the_fleet(context: Context, airflow: Airflow) -> None:
    with state.hold_fleet(context, "scale_fleet/1"):
        with pytest.raises(GuardRefused):
            steps.begin_scaling(context, "scale_fleet/2", "olga")
        context.store.give_back(rollout_claim.ROLL_OUT, "scale_fleet/1")


def test_they_go_again_and_the_work_goes_on(context: Context, airflow: Airflow) -> None:
    settings, holder = context.settings, "scale_fleet/shrink"
    gone = [settings.fleet.node(name) for name in ("kafka-2", "cassandra-4")]
    for node in gone:
        declare(settings, "", without=node.name)
    assert "kafka-2" in settings.fleet.nodes, "an edit alone removes nothing"
    with work(context) as pulses:
        result = run(context, holder)
    print(result.text, [pulse.to_json() for pulse in pulses])
    assert result.state is ScalingState.DONE
    assert not {node.name for node in gone} & settings.known_fleet.nodes.keys()
    assert voters(context) == {1, 3, 4}, "the observer has taken the vote of the broker that left"
    assert asyncio.run(ring(context)) == {
        node.address: "NORMAL" for node in settings.fleet.of(Role.CASSANDRA)
    }
    assert airflow.ended == [f"watch_{node.name}" for node in gone]
    assert not any(settings.node_root(node.name).exists() for node in gone)
    assert [(pulse.name, pulse.failures) for pulse in pulses if pulse.failures] == []
    assert max(pulse.longest_s for pulse in pulses) < GAP_S
