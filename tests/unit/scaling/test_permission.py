"""What refuses a change of the fleet."""

from __future__ import annotations

from typing import Any

import pytest

from kintsugi.scaling.permission import format_refusal, replication_factors


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"keyspace_name": "trades", "replication": {"class": "N", "datacenter1": "3"}}], [3]),
        ([{"keyspace_name": "trades", "replication": {"class": "N", "datacenter1": "5/1"}}], [5]),
        ([{"keyspace_name": "system_auth", "replication": {"class": "N", "datacenter1": "3"}}], [3]),
        ([{"keyspace_name": "system_traces", "replication": {"class": "S", "replication_factor": "2"}}], []),
        ([{"keyspace_name": "system", "replication": {"class": "L"}}], []),
    ],
)
def test_our_keyspaces_and_the_roles_count(rows: list[Any], expected: list[int]) -> None:
    assert replication_factors(rows) == expected


def test_a_refusal_names_every_reason() -> None:
    text = format_refusal(["kafka-1: it is away.", "An incident is open."])
    assert "kafka-1" in text
    assert "incident" in text
