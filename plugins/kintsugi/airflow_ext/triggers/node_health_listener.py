"""How a watch ends: in the triggerer itself, so that no worker has to start only to say what was found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from airflow.sdk.bases.xcom import BaseXCom
from airflow.triggers.base import BaseTaskEndEvent, TaskSkippedEvent, TaskSuccessEvent


def end_of_watch(finding: Mapping[str, Any] | None) -> BaseTaskEndEvent:
    """The sensor ends with ``finding`` as what it returned; skipped, with all that follows, when there was none."""
    if finding is None:
        return TaskSkippedEvent()
    return TaskSuccessEvent(xcoms={BaseXCom.XCOM_RETURN_KEY: dict(finding)})


def finding_of(returned: Any) -> dict[str, Any] | None:
    """The finding that such a sensor returned, as a task after it gets it; None when there is none.

    What ends a task in the triggerer is encoded twice by Airflow 3.3.2 (``TaskInstance.xcom_push``), what a worker
    returns once.
    """
    value = json.loads(returned) if isinstance(returned, str) else returned
    return value if isinstance(value, dict) else None
