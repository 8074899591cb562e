"""The sensors that hand the watch of the flow to the triggerer."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferred

from kintsugi.sensors.flow_health import FlowHealthSensor, StreamAbsentSensor

CONTEXT: Any = {}


@pytest.mark.parametrize("kind", [FlowHealthSensor, StreamAbsentSensor])
def test_it_defers_at_once(kind: type[FlowHealthSensor | StreamAbsentSensor]) -> None:
    sensor = kind(task_id="flow", max_watch=60)
    with pytest.raises(TaskDeferred) as deferred:
        vars(kind)["execute"].__wrapped__(sensor, CONTEXT)
    path, kwargs = deferred.value.trigger.serialize()
    assert path.startswith("kintsugi.triggers.flow_health.")
    assert kwargs["max_watch"] == 60
    assert deferred.value.method_name == "execute_complete"


def test_a_sick_flow_is_returned() -> None:
    event = {"symptom": "stalled", "evidence": ["50 messages wait"]}
    assert FlowHealthSensor(task_id="flow").execute_complete(CONTEXT, event) == event
    assert FlowHealthSensor(task_id="flow").execute_complete(CONTEXT, {"well": True}) == {"well": True}


def test_a_stream_that_ran_all_the_time_skips_what_would_start_it() -> None:
    sensor = StreamAbsentSensor(task_id="absent")
    assert sensor.execute_complete(CONTEXT, {"absent": True, "detail": "none"})["absent"]
    with pytest.raises(AirflowSkipException):
        sensor.execute_complete(CONTEXT, {"well": True})
