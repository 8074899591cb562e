"""Airflow's deadline alerts: page a person when a run takes too long.

Experimental in Airflow 3.3 (https://airflow.apache.org/docs/apache-airflow/3.3.2/howto/deadline-alerts.html): the
scheduler detects the missed deadline, and the triggerer calls `overdue`, which puts a page into the outbox.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from kintsugi.core.connections import store_dsn
from kintsugi.core.settings import load_settings
from kintsugi.db.outbox import MessageKind, Outbox

if TYPE_CHECKING:
    from airflow.sdk.definitions.deadline import DeadlineAlert


def deadline_alert(limit: timedelta) -> DeadlineAlert:
    """An alert that pages when a run of the DAG has not ended ``limit`` after it was queued."""
    from airflow.sdk.definitions.callback import AsyncCallback
    from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=limit,
        callback=AsyncCallback(f"{__name__}.overdue", kwargs={"minutes": limit.total_seconds() / 60}),
    )


# Airflow keeps the path of this function with each deadline that waits, so its name stays.
async def overdue(minutes: float, context: Mapping[str, Any]) -> str:
    """Put the page about the run in Airflow's ``context`` into the outbox, once; returns its title."""
    return await asyncio.to_thread(_put_page, context["dag_run"], minutes)


def _put_page(run: Mapping[str, Any], minutes: float) -> str:
    page = page_of(run, minutes)
    Outbox(store_dsn(load_settings())).add_message(
        f"page/overdue/{run['dag_id']}/{run['dag_run_id']}", MessageKind.PAGE, page
    )
    return page["title"]


def page_of(run: Mapping[str, Any], minutes: float) -> dict[str, str]:
    """Title and text of the page; ``run`` is the run as Airflow's REST API returns it. Pure."""
    node = (run.get("conf") or {}).get("node")
    of_what = f"{run['dag_id']} of {node}" if node else run["dag_id"]
    return {
        "title": f"{of_what} is not done after {minutes:.0f} minutes",
        "text": f"Run {run['dag_run_id']} of {run['dag_id']} is still running. "
        "See its tasks in Airflow, and `make status`.",
    }
