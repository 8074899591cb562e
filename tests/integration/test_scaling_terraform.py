"""Terraform on real nodes, without services: an edit of the fleet file alone neither makes a node nor destroys one.

Terraform destroys a node that is no longer listed together with any other target of its module. So here is shown that
neither `make up`, nor a recovery, nor the addition of a node does that to a node whose line was deleted.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kintsugi.core.connections import store_dsn
from kintsugi.core.fleet import Node
from kintsugi.core.membership import Membership, read_membership, write_membership
from kintsugi.core.settings import Settings
from kintsugi.db.store import Store
from kintsugi.environments.local import node as nodes
from kintsugi.infra.terraform import Terraform
from kintsugi.installation.up import record_members
from kintsugi.operations.context import Context
from kintsugi.recovery import plan_policy
from kintsugi.scaling import provisioning
from tests.installations import installation, open_directory
from tests.integration.test_fleet_heal import postgres

pytestmark = pytest.mark.timeout(900)

HEAD = """\
name: test
environment: local
ssh_port: 2222
control_plane: {address: 127.60.0.1, airflow_port: 8080, postgres_port: 5432, s3_port: 9000, log_port: 5514}
nodes:
"""


def declare(settings: Settings, *numbers: int) -> None:
    lines = [f"  - {{name: kafka-{n}, role: kafka, address: 127.60.1.{n}}}\n" for n in numbers]
    settings.fleet_file.write_text(HEAD + "".join(lines))


@pytest.fixture(scope="module")
def context() -> Iterator[Context]:
    with open_directory() as directory:
        settings = installation(directory, "127.60")
        declare(settings, 1, 2)
        try:
            with postgres(settings):
                record_members(settings, [])
                Terraform(settings).apply_all()
                yield Context(settings, settings.fleet, Store(store_dsn(settings)))
        finally:
            for name in ("kafka-1", "kafka-2", "kafka-3"):
                nodes.destroy_node(settings, name)


def incarnations(context: Context) -> dict[str, str | None]:
    return {name: context.platform().incarnation(name) for name in ("kafka-1", "kafka-2", "kafka-3")}


@pytest.fixture
def edited(context: Context) -> tuple[Node, Node]:
    """The fleet file with one node more and one node less; the node that comes and the one that goes."""
    gone = context.settings.fleet.node("kafka-2")
    declare(context.settings, 1, 3)
    return context.settings.declared_fleet.node("kafka-3"), gone


def test_make_up_leaves_nodes_alone_that_are_to_come_or_to_go(
    context: Context, edited: tuple[Node, Node]
) -> None:
    before = incarnations(context)
    assert before["kafka-1"]
    assert before["kafka-2"]
    record_members(context.settings, ["kafka-1", "kafka-2"])  # there is a record: it stays
    Terraform(context.settings).apply_all()
    assert incarnations(context) == before


def test_a_recovery_replaces_its_own_node_only(context: Context, edited: tuple[Node, Node]) -> None:
    addresses = plan_policy.node_addresses("local", "kafka-1", with_volume=True)
    saved = context.terraform().plan(replace=addresses, targets=addresses)
    assert plan_policy.planned_changes(saved.document).keys() == set(addresses)
    plan_policy.check_plan(saved.document, addresses)


def test_one_node_is_made_and_one_is_destroyed_and_the_others_run_on(
    context: Context, edited: tuple[Node, Node]
) -> None:
    new, gone = edited
    before = incarnations(context)
    for _ in range(2):  # as after a kill
        membership = read_membership(context.settings.control)
        assert membership is not None
        write_membership(context.settings.control, membership.with_joining(new))
        provisioning.create_node(context, new, lambda: None)
    made = incarnations(context)
    assert made["kafka-3"]
    assert (made["kafka-1"], made["kafka-2"]) == (before["kafka-1"], before["kafka-2"])
    for _ in range(2):
        provisioning.destroy_node(context, gone, lambda: None)
    after = incarnations(context)
    assert after == {**made, "kafka-2": None}
    assert not context.settings.node_root("kafka-2").exists()
    assert list(context.settings.quarantine.glob("kafka-2.*")), "its data is kept for a while"
    members = Membership({"kafka-1": context.settings.declared_fleet.node("kafka-1"), "kafka-3": new})
    write_membership(context.settings.control, members)
    Terraform(context.settings).apply_all()
    assert incarnations(context) == after
