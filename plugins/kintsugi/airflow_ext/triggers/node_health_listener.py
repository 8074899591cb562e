"""The end of a watch: in the triggerer itself, so that no worker has to start only to report the finding."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from airflow.sdk.bases.xcom import BaseXCom
from airflow.triggers.base import BaseTaskEndEvent, TaskSkippedEvent, TaskSuccessEvent


def end_of_watch(finding: Mapping[str, Any] | None) -> BaseTaskEndEvent:
    """Return the event that ends the sensor with ``finding`` as its result; None skips it and all that follows."""
    if finding is None:
        return TaskSkippedEvent()
    return TaskSuccessEvent(xcoms={BaseXCom.XCOM_RETURN_KEY: dict(finding)})


def finding_of(returned: Any) -> dict[str, Any] | None:
    """Return the finding from the result of such a sensor, as the next task gets it; None if there is none.

    Airflow 3.3.2 encodes the result of a task that ends in the triggerer twice (``TaskInstance.xcom_push``), and the
    result of a worker once.
    """
    value = json.loads(returned) if isinstance(returned, str) else returned
    return value if isinstance(value, dict) else None
