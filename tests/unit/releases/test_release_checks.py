"""A release is rolled out only if it fits the fleet."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.core.cassandra_racks import record_zones
from kintsugi.core.errors import GuardRefused
from kintsugi.core.membership import Membership, write_membership
from kintsugi.releases import release_checks
from kintsugi.releases.archive import Release
from tests.installations import give_zones, installation


def test_a_release_that_moves_cassandra_into_other_zones_is_refused(tmp_path: Path) -> None:
    here, there = installation(tmp_path / "here", "127.40"), installation(tmp_path / "there", "127.40")
    context: Any = SimpleNamespace(settings=here, fleet=here.fleet)
    release = Release("0" * 64, there.fleet_file.parent)
    record_zones(here, {})
    give_zones(there, {"cassandra-1": "a", "cassandra-2": "b", "cassandra-3": "c"})
    with pytest.raises(GuardRefused, match=r"000000000000.*cassandra-1: a"):
        release_checks.check_fit(context, release)
    give_zones(there, {"kafka-1": "a", "kafka-2": "b", "kafka-3": "c"})
    release_checks.check_fit(context, release)


def test_the_zones_of_a_release_are_in_force_once_every_node_runs_it(tmp_path: Path) -> None:
    here, there = installation(tmp_path / "here", "127.40"), installation(tmp_path / "there", "127.40")
    write_membership(here.control, Membership(here.declared_fleet.nodes))
    give_zones(there, {"kafka-1": "a", "kafka-2": "b", "kafka-3": "c"})
    context: Any = SimpleNamespace(settings=here, fleet=here.fleet)
    release_checks.record_zones(context, Release("0" * 64, there.fleet_file.parent))
    assert [here.fleet.node(f"kafka-{n}").zone for n in (1, 2, 3)] == ["a", "b", "c"]


def test_a_release_with_another_address_is_refused_also_if_the_fleet_file_has_it(tmp_path: Path) -> None:
    here = installation(tmp_path, "127.40")
    write_membership(here.control, Membership(here.declared_fleet.nodes))
    here.fleet_file.write_text(here.fleet_file.read_text().replace("127.40.1.1}", "127.40.1.9}"))
    context: Any = SimpleNamespace(settings=here, fleet=here.fleet)
    with pytest.raises(GuardRefused, match="kafka-1"):
        release_checks.check_fit(context, Release("0" * 64, here.fleet_file.parent))
