"""A release is rolled out only if it fits the fleet."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.core.cassandra_racks import record_zones
from kintsugi.core.errors import GuardRefused
from kintsugi.core.membership import Membership, write_membership
from kintsugi.releases import assignment, release_checks, rollout_steps
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


def test_a_release_that_cant_be_rolled_back_is_refused(tmp_path: Path) -> None:
    here, good = installation(tmp_path / "here", "127.40"), installation(tmp_path / "good", "127.40")
    context: Any = SimpleNamespace(settings=here, fleet=here.fleet)
    release_checks.check_way_back(context, Release("0" * 64, good.fleet_file.parent))
    lines = good.fleet_file.read_text().splitlines(keepends=True)
    good.fleet_file.write_text("".join(line for line in lines if "name: kafka-3" not in line))
    with pytest.raises(GuardRefused, match=r"kafka-3.*make scale-fleet"):
        release_checks.check_way_back(context, Release("0" * 64, good.fleet_file.parent))


def test_the_way_back_is_checked_before_a_roll_out_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    good = SimpleNamespace(digest="a" * 64, bad_at=None)
    store = SimpleNamespace(release_record=lambda _: SimpleNamespace(digest="b" * 64, bad_at=None))
    store.last_known_good = lambda: good
    context: Any = SimpleNamespace(store=store)

    def refuse(_: Any, back_to: Release) -> None:
        raise GuardRefused(back_to.digest)

    monkeypatch.setattr(assignment, "open_release", lambda _, digest: Release(digest, Path("/nowhere")))
    monkeypatch.setattr(release_checks, "check_fit", lambda *_: None)
    monkeypatch.setattr(release_checks, "check_way_back", refuse)
    monkeypatch.setattr(rollout_steps, "claim_rollout", lambda *_: None)
    monkeypatch.setattr(rollout_steps, "end_rollout_claim", lambda *_: None)
    with pytest.raises(GuardRefused, match="aaaa"):
        rollout_steps.prepare_rollout(context, "run", "b" * 64)
