"""What is added and removed, by tables; and what refuses it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kintsugi.core.fleet import REPOSITORY, Fleet, Node, Role, load_fleet
from kintsugi.core.membership import Membership
from kintsugi.scaling.plan import (
    RESERVE,
    ScalingPlan,
    Space,
    plan_scaling,
    plan_violations,
    size_violations,
    space_violations,
)

FLEET = load_fleet(REPOSITORY / "fleet.yaml")
MEMBERS = Membership(FLEET.nodes)
KAFKA_4 = Node("kafka-4", Role.KAFKA, "127.20.1.4", 2222)
CASSANDRA_4 = Node("cassandra-4", Role.CASSANDRA, "127.20.2.4", 2222)
COPIES = {Role.KAFKA: 3, Role.CASSANDRA: 3}


def declare(*add: Node, drop: tuple[str, ...] = (), environment: str = "local") -> Fleet:
    nodes = {name: node for name, node in FLEET.nodes.items() if name not in drop}
    return replace(FLEET, nodes=nodes | {node.name: node for node in add}, environment=environment)


def names(plan: ScalingPlan) -> tuple[list[str], list[str]]:
    return [node.name for node in plan.add], [node.name for node in plan.remove]


@pytest.mark.parametrize(
    ("declared", "members", "expected"),
    [
        (FLEET, MEMBERS, ([], [])),
        (declare(KAFKA_4), MEMBERS, (["kafka-4"], [])),
        (declare(KAFKA_4), MEMBERS.with_joining(KAFKA_4), (["kafka-4"], [])),
        (declare(KAFKA_4), MEMBERS.with_member(KAFKA_4), ([], [])),
        (FLEET, MEMBERS.with_member(KAFKA_4), ([], ["kafka-4"])),
        (FLEET, MEMBERS.with_joining(KAFKA_4), ([], ["kafka-4"])),
        (declare(CASSANDRA_4, drop=("kafka-3",)), MEMBERS, (["cassandra-4"], ["kafka-3"])),
    ],
)
def test_the_plan_is_what_lacks_between_the_file_and_what_is_there(
    declared: Fleet, members: Membership, expected: tuple[list[str], list[str]]
) -> None:
    assert names(plan_scaling(declared, members)) == expected


def test_what_is_left_over_of_an_earlier_run_is_a_plan_too() -> None:
    assert plan_scaling(declare(KAFKA_4), MEMBERS.with_member(KAFKA_4))
    assert not plan_scaling(FLEET, MEMBERS)


@pytest.mark.parametrize(
    "declared",
    [
        declare(KAFKA_4, environment="docker"),
        declare(replace(FLEET.node("kafka-2"), address="127.20.1.9")),
        declare(replace(FLEET.node("kafka-2"), zone="a")),
        declare(Node("spark-master-2", Role.SPARK_MASTER, "127.20.3.9", 2222)),
        declare(drop=("spark-master-1",)),
        declare(Node("kafka-4", Role.KAFKA, "127.20.1.3", 2222), drop=("kafka-3",)),
        declare(Node("broker-2", Role.KAFKA, "127.20.1.5", 2222)),
    ],
)
def test_an_edit_that_is_no_addition_or_removal_is_refused(declared: Fleet) -> None:
    assert plan_violations(declared, MEMBERS, plan_scaling(declared, MEMBERS))


def test_a_plain_edit_is_not_refused() -> None:
    for declared in (declare(KAFKA_4), declare(drop=("spark-worker-2",)), declare(CASSANDRA_4)):
        assert plan_violations(declared, MEMBERS, plan_scaling(declared, MEMBERS)) == []


def grown() -> Membership:
    worker = Node("spark-worker-3", Role.SPARK_WORKER, "127.20.3.4", 2222)
    return MEMBERS.with_member(KAFKA_4).with_member(CASSANDRA_4).with_member(worker)


@pytest.mark.parametrize(
    ("members", "drop", "copies", "refused"),
    [
        (MEMBERS, ("kafka-3",), COPIES, True),
        (MEMBERS, ("cassandra-1",), COPIES, True),
        (MEMBERS, ("spark-worker-2",), COPIES, True),
        (grown(), ("kafka-4",), COPIES, False),
        (grown(), ("kafka-2",), COPIES, False),
        (grown(), ("kafka-2", "kafka-4"), COPIES, True),
        (grown(), ("cassandra-2",), COPIES, False),
        (grown(), ("spark-worker-1",), COPIES, False),
        (grown(), ("kafka-4",), {Role.KAFKA: 4, Role.CASSANDRA: 3}, True),
        (grown(), ("kafka-4",), {Role.KAFKA: None, Role.CASSANDRA: 3}, True),
        (grown(), ("cassandra-4",), {Role.KAFKA: 3, Role.CASSANDRA: None}, True),
        (grown(), ("spark-worker-1",), {Role.KAFKA: None, Role.CASSANDRA: None}, False),
    ],
)
def test_no_role_becomes_too_small_for_its_data(
    members: Membership, drop: tuple[str, ...], copies: dict[Role, int | None], refused: bool
) -> None:
    nodes = {name: node for name, node in members.members.items() if name not in drop}
    declared = replace(FLEET, nodes=nodes)
    reasons = size_violations(plan_scaling(declared, members), declared, copies)
    assert bool(reasons) is refused, reasons


@pytest.mark.parametrize(
    ("zones", "drop", "refused"),
    [("abca", "cassandra-2", True), ("abca", "cassandra-4", False), ("aaaa", "cassandra-2", False)],
)
def test_a_rack_with_replicas_of_its_own_stays(zones: str, drop: str, refused: bool) -> None:
    ring = [
        replace(node, zone=zone)
        for node, zone in zip([*FLEET.of(Role.CASSANDRA), CASSANDRA_4], zones, strict=True)
    ]
    there = {**FLEET.nodes, **{node.name: node for node in ring}}
    declared = replace(FLEET, nodes={name: node for name, node in there.items() if name != drop})
    reasons = size_violations(plan_scaling(declared, Membership(there)), declared, COPIES)
    assert bool(reasons) is refused, reasons


@pytest.mark.parametrize(
    ("free", "incoming", "refused"),
    [(RESERVE + 10, 10, False), (RESERVE + 9, 10, True), (RESERVE - 1, 0, True)],
)
def test_the_reserve_of_a_file_system_stays_free(free: int, incoming: int, refused: bool) -> None:
    assert bool(space_violations([Space(("kafka-1",), free, incoming)])) is refused
