"""From a recovery's task in Airflow to its incident on Pipeline Health."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperatorLink

from kintsugi.web.mount import PREFIX


class IncidentLink(BaseOperatorLink):
    """The button *Incident* of a recovery's tasks; empty where no incident was opened."""

    name = "Incident"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The incident's page. Airflow gives the running task instance as ``ti_key`` when the task ends."""
        case = ti_key.xcom_pull(task_ids="recovery.confirm", key="case")
        return f"{PREFIX}/incidents/{case['incident']}" if case else ""
