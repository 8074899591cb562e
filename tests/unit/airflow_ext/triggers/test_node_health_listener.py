"""What a watch found comes to the task after it, however often Airflow encodes it on the way."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kintsugi.airflow_ext.triggers.node_health_listener import finding_of

FINDING = {"node": "kafka-1", "symptom": "down"}


@pytest.mark.parametrize(
    ("returned", "finding"),
    [(FINDING, FINDING), (json.dumps(FINDING), FINDING), (None, None), ("null", None)],
)
def test_what_the_sensor_returned_is_the_finding(returned: Any, finding: Any) -> None:
    assert finding_of(returned) == finding
