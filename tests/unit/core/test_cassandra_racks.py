"""A Cassandra node keeps the rack that its cluster was formed with, whatever the fleet file says later."""

from __future__ import annotations

from pathlib import Path

import pytest

from kintsugi.core.cassandra_racks import (
    DEFAULT_RACK,
    declared_zones,
    forget_zones,
    formed_zones,
    rack_of,
    record_zones,
    zone_conflict,
)
from kintsugi.core.fleet import Role
from kintsugi.core.settings import Settings
from tests.installations import give_zones, installation

ZONES = {"cassandra-1": "a", "cassandra-2": "b", "cassandra-3": "c"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return installation(tmp_path, "127.34")


def racks(settings: Settings) -> dict[str, str]:
    return {node.name: rack_of(settings, node) for node in settings.fleet.of(Role.CASSANDRA)}


def mark_formed(settings: Settings) -> None:
    """As the last task of site.yml does."""
    mark = settings.control / "formed" / "cassandra"
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()


def test_before_a_cluster_is_formed_nothing_is_recorded_and_any_zone_fits(settings: Settings) -> None:
    assert formed_zones(settings) is None
    give_zones(settings, ZONES | {"kafka-1": "x", "kafka-2": "y", "kafka-3": "x"})
    assert declared_zones(settings.fleet) == ZONES
    assert zone_conflict(settings, settings.fleet) is None


def test_the_racks_are_the_recorded_zones_not_those_of_the_fleet_file(settings: Settings) -> None:
    give_zones(settings, ZONES)
    record_zones(settings, declared_zones(settings.fleet))
    assert racks(settings) == ZONES
    give_zones(settings, dict.fromkeys(ZONES, "c"))
    assert racks(settings) == ZONES
    give_zones(settings, {})
    assert racks(settings) == ZONES


def test_a_cluster_from_before_the_zones_keeps_its_rack(settings: Settings) -> None:
    mark_formed(settings)
    give_zones(settings, ZONES)
    assert formed_zones(settings) == {}
    assert set(racks(settings).values()) == {DEFAULT_RACK}


@pytest.mark.parametrize(
    ("formed", "declared"),
    [
        ({}, ZONES),
        (ZONES, {}),
        (ZONES, ZONES | {"cassandra-3": "b"}),
    ],
)
def test_other_zones_than_those_of_the_cluster_are_a_conflict(
    settings: Settings, formed: dict[str, str], declared: dict[str, str]
) -> None:
    record_zones(settings, formed)
    give_zones(settings, formed)
    assert zone_conflict(settings, settings.fleet) is None
    give_zones(settings, declared)
    conflict = zone_conflict(settings, settings.fleet)
    assert conflict is not None
    assert "make down" in conflict


def test_the_zones_of_other_roles_may_change(settings: Settings) -> None:
    record_zones(settings, {})
    give_zones(settings, {"kafka-1": "a", "kafka-2": "b", "kafka-3": "c", "spark-worker-1": "a"})
    assert zone_conflict(settings, settings.fleet) is None


def test_another_cluster_may_have_other_zones(settings: Settings) -> None:
    record_zones(settings, ZONES)
    forget_zones(settings)
    assert formed_zones(settings) is None
    forget_zones(settings)  # a second run of a command that was killed
