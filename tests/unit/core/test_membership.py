"""Which nodes are in force: an edit of the fleet file alone changes nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from kintsugi.core.errors import FleetError
from kintsugi.core.fleet import Node, Role
from kintsugi.core.membership import (
    Membership,
    fleet_in_force,
    moved_nodes,
    present_nodes,
    read_membership,
    record_path,
    write_membership,
)
from kintsugi.core.settings import Settings
from tests.installations import installation

NEW = "  - {name: kafka-4, role: kafka, address: 127.34.1.4}\n"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return installation(tmp_path, "127.34")


def declare(settings: Settings, *, add: str = "", drop: str = "") -> None:
    text = settings.fleet_file.read_text()
    if drop:
        text = re.sub(rf"  - {{name: {drop}, .*\n", "", text)
    settings.fleet_file.write_text(text.rstrip("\n") + "\n" + add)


def test_without_a_record_every_declared_node_is_in_force(settings: Settings) -> None:
    assert settings.fleet == settings.declared_fleet


def test_a_declared_node_that_is_no_member_is_not_in_force(settings: Settings) -> None:
    write_membership(settings.control, Membership(settings.declared_fleet.nodes))
    declare(settings, add=NEW)
    assert "kafka-4" not in settings.fleet.nodes
    assert "kafka-4" in settings.known_fleet.nodes


def test_a_member_that_is_no_longer_declared_is_still_in_force(settings: Settings) -> None:
    members = settings.declared_fleet.nodes
    write_membership(settings.control, Membership(members))
    declare(settings, drop="kafka-3")
    assert settings.fleet.node("kafka-3") == members["kafka-3"]
    assert "kafka-3" not in settings.declared_fleet.nodes


def test_the_fleet_file_of_a_release_stands_for_itself(settings: Settings) -> None:
    write_membership(settings.control, Membership(settings.declared_fleet.nodes))
    declare(settings, add=NEW)
    file = settings.control / "releases" / ("a" * 64) / "fleet.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(settings.fleet_file.read_text())
    of_release = Settings(state=settings.state, cache=settings.cache, fleet_file=file)
    assert "kafka-4" in of_release.fleet.nodes


def test_a_joining_node_is_known_also_if_its_line_is_gone(settings: Settings) -> None:
    node = Node("kafka-4", Role.KAFKA, "127.34.1.4", 2222)
    write_membership(settings.control, Membership(settings.declared_fleet.nodes).with_joining(node))
    assert settings.known_fleet.node("kafka-4") == node
    assert "kafka-4" not in settings.fleet.nodes


def test_what_is_left_to_do_follows_from_the_role(settings: Settings) -> None:
    members = Membership(settings.declared_fleet.nodes)
    broker = members.with_member(Node("kafka-4", Role.KAFKA, "127.34.1.4", 2222))
    assert broker.spread
    assert not broker.cleanup
    ring = members.with_member(Node("cassandra-4", Role.CASSANDRA, "127.34.2.4", 2222))
    assert ring.cleanup == ("cassandra-1", "cassandra-2", "cassandra-3")
    assert not ring.spread
    assert broker.settle
    assert broker.unwatched == ("kafka-4",)
    gone = broker.without("kafka-4")
    assert gone.unwatched == ()
    assert "kafka-4" not in gone.members


def test_a_broker_that_stays_after_all_gets_replicas_again(settings: Settings) -> None:
    leaving = Membership(settings.declared_fleet.nodes).without_watch("kafka-3")
    assert leaving.spread
    assert not leaving.without("kafka-3").spread
    assert not Membership(settings.declared_fleet.nodes).without_watch("cassandra-3").spread


def test_the_record_is_read_as_it_was_written(settings: Settings) -> None:
    node = Node("cassandra-4", Role.CASSANDRA, "127.34.2.4", 2222, zone="a")
    written = Membership(settings.declared_fleet.nodes).with_joining(node).with_member(node)
    write_membership(settings.control, written)
    assert read_membership(settings.control) == written
    record_path(settings.control).write_text("{}")
    with pytest.raises(FleetError, match=re.escape("fleet.json")):
        _ = settings.fleet


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("address: 127.34.1.1}", "address: 127.34.1.9}"),
        ("address: 127.34.1.1}", "address: 127.34.1.1, ssh_port: 23}"),
    ],
)
def test_an_edit_of_a_place_is_not_in_force_and_is_named(settings: Settings, before: str, after: str) -> None:
    members = settings.declared_fleet.nodes
    write_membership(settings.control, Membership(members))
    text = settings.fleet_file.read_text()
    assert before in text
    settings.fleet_file.write_text(text.replace(before, after))
    record = read_membership(settings.control)
    present = present_nodes(settings.declared_fleet, record)
    assert present is not None
    assert settings.declared_fleet.node("kafka-1") != members["kafka-1"]
    assert settings.fleet.node("kafka-1") == members["kafka-1"]
    assert settings.known_fleet.node("kafka-1") == members["kafka-1"]
    assert present["kafka-1"] == members["kafka-1"]
    assert moved_nodes(settings.declared_fleet, record) == ["kafka-1"]


def test_another_host_is_not_in_force_either(settings: Settings) -> None:
    """Else a node would be made anew on another machine, at the address of the former one."""
    node = replace(settings.declared_fleet.node("kafka-1"), host="h1")
    declared = replace(settings.declared_fleet, nodes={node.name: replace(node, host="h2")})
    record = Membership({node.name: node})
    assert fleet_in_force(declared, record).node("kafka-1") == node
    assert moved_nodes(declared, record) == ["kafka-1"]


def test_a_protection_is_in_force_at_once(settings: Settings) -> None:
    write_membership(settings.control, Membership(settings.declared_fleet.nodes))
    text = settings.fleet_file.read_text()
    settings.fleet_file.write_text(
        text.replace("address: 127.34.1.1}", "address: 127.34.1.1, protected: true}")
    )
    assert settings.fleet.node("kafka-1").protected
    assert moved_nodes(settings.declared_fleet, read_membership(settings.control)) == []


def test_the_zones_of_a_release_that_was_rolled_out_are_recorded(settings: Settings) -> None:
    members = Membership(settings.declared_fleet.nodes).with_zones({"kafka-1": "a"})
    assert members.members["kafka-1"].zone == "a"
    assert members.members["kafka-2"] == settings.declared_fleet.node("kafka-2")
