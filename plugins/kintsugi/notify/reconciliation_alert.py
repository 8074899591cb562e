"""Page a person when the reconciliation finds missing or altered trades: a callback for a failed task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kintsugi.core.connections import store_dsn
from kintsugi.core.errors import ReconciliationError
from kintsugi.core.settings import load_settings
from kintsugi.db.outbox import MessageKind, Outbox


def page_on_failure(context: Mapping[str, Any]) -> None:
    """Put the page about the failed run in Airflow's ``context`` into the outbox, once a run.

    Only a reconciliation that ran and found differences pages. One that could not run is repeated after the next
    ingest, and the failure behind it is detected by its own watch.
    """
    error = context.get("exception")
    if not isinstance(error, ReconciliationError):
        return
    Outbox(store_dsn(load_settings())).add_message(
        f"page/unaccounted/{context['dag_run'].run_id}",
        MessageKind.PAGE,
        {
            "title": "Trades are missing or altered in Cassandra",
            "text": f"{error}.\nRun `make reconcile`: it reconciles all files, and shows whether the lost trades ever "
            "were on the topic. Trigger `replay_trades` with the key of a file to store its trades again, each once.",
        },
    )
