"""A release is rolled out only if it fits the fleet."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.core.cassandra_racks import record_zones
from kintsugi.core.errors import GuardRefused
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
