"""The sensors that hand the watch of the flow to the triggerer."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred

from kintsugi.airflow_ext.sensors.flow_health import FlowHealthSensor, StreamAbsentSensor

CONTEXT: Any = {}


@pytest.mark.parametrize("kind", [FlowHealthSensor, StreamAbsentSensor])
def test_it_defers_at_once(kind: type[FlowHealthSensor | StreamAbsentSensor]) -> None:
    sensor = kind(task_id="flow", max_watch=60)
    with pytest.raises(TaskDeferred) as deferred:
        vars(kind)["execute"].__wrapped__(sensor, CONTEXT)
    path, kwargs = deferred.value.trigger.serialize()
    assert path.startswith("kintsugi.airflow_ext.triggers.flow_health.")
    assert kwargs["max_watch"] == 60
