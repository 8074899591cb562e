from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scaling_drill import additional_nodes, declare_nodes, has_failed
from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import load_fleet

FLEET = Path(__file__).parents[3] / "fleet.yaml"
WELL = {"lost": 0, "doubled": 0, "extra": 0, "altered": 0, "wrong_windows": 0, "wrong_derived": 0}


def test_one_node_more_of_each_role_with_the_next_number_and_a_free_address() -> None:
    found = {node.name: node.address for node in additional_nodes(load_fleet(FLEET))}
    assert found == {"spark-worker-3": "127.20.3.4", "kafka-4": "127.20.1.4", "cassandra-4": "127.20.2.4"}


def test_the_fleet_file_declares_them_and_keeps_the_rest(tmp_path: Path) -> None:
    nodes = additional_nodes(before := load_fleet(FLEET))
    path = tmp_path / "fleet.yaml"
    path.write_text(declare_nodes(FLEET.read_text(), nodes))
    after = load_fleet(path)
    assert {node.name: node for node in after} == {node.name: node for node in [*before, *nodes]}
    assert [line for line in path.read_text().splitlines() if line not in FLEET.read_text()] == [
        f"  - {{name: {node.name}, role: {node.role.value}, address: {node.address}}}" for node in nodes
    ]


def test_a_zone_is_declared_too() -> None:
    (node, *_) = additional_nodes(load_fleet(FLEET))
    text = declare_nodes("nodes:\n  - {name: kafka-1}\n", [replace(node, zone="c")])
    assert text.splitlines()[1] == (
        "  - {name: spark-worker-3, role: spark_worker, address: 127.20.3.4, zone: c}"
    )


@given(st.text(alphabet="ab:-\n ", max_size=30))
def test_a_file_without_a_list_of_nodes_is_refused(text: str) -> None:
    with pytest.raises(StepFailed, match=r"fleet\.yaml has no list"):
        declare_nodes(text, [])


@pytest.mark.parametrize(
    ("document", "failed"),
    [
        ({"incidents": [], "account": WELL}, False),
        ({"incidents": ["kafka-4-1"], "account": WELL}, True),
        ({"incidents": [], "account": WELL | {"lost": 1}}, True),
    ],
)
def test_an_incident_or_a_lost_trade_is_a_fault(document: dict[str, object], failed: bool) -> None:
    assert has_failed(document) is failed
