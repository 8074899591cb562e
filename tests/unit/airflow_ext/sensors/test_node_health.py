"""The sensor that hands the watch of a node to the triggerer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred

from kintsugi.airflow_ext.sensors.node_health import NodeHealthSensor
from kintsugi.core.errors import FleetError

FLEET = """
name: test
environment: local
ssh_port: 2222
control_plane: {address: 127.35.93.9, airflow_port: 1, postgres_port: 2, s3_port: 3, log_port: 4}
nodes:
  - {name: kafka-1, role: kafka, address: 127.35.93.1, ssh_port: 2299}
"""


@pytest.fixture(autouse=True)
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fleet.yaml").write_text(FLEET)
    monkeypatch.setenv("KINTSUGI_FLEET", str(tmp_path / "fleet.yaml"))


def execute(sensor: NodeHealthSensor) -> None:
    context: Any = {}
    NodeHealthSensor.execute.__wrapped__(sensor, context)  # type: ignore[attr-defined]


def test_it_defers_at_once_with_all_that_the_triggerer_needs() -> None:
    with pytest.raises(TaskDeferred) as deferred:
        execute(NodeHealthSensor(task_id="health", node="kafka-1", max_watch=60))
    _, kwargs = deferred.value.trigger.serialize()
    assert kwargs | {"name": "kafka-1", "address": "127.35.93.1", "role": "kafka", "ssh_port": 2299} == kwargs
    assert kwargs["max_watch"] == 60


def test_an_unknown_node_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(FleetError, match=r"kafka-9.*kafka-1"):
        execute(NodeHealthSensor(task_id="health", node="kafka-9"))


def test_its_own_timeout_never_comes_before_the_end_of_the_watch() -> None:
    sensor = NodeHealthSensor(task_id="health", node="kafka-1", max_watch=100)
    assert sensor.timeout > 100
