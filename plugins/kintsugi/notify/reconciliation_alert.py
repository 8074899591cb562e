"""A person is called when the account of trades doesn't balance: the callback of a task that failed for good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kintsugi.core.errors import ReconciliationError
from kintsugi.core.settings import load_settings
from kintsugi.db.outbox import MessageKind, outbox_of


def page_on_failure(context: Mapping[str, Any]) -> None:
    """Put the page about the failed run in Airflow's ``context`` into the outbox, once a run.

    Only for an account that was taken and doesn't balance. One that couldn't be taken is taken again after the next
    ingest, and what it failed for has a watch of its own.
    """
    error = context.get("exception")
    if not isinstance(error, ReconciliationError):
        return
    outbox_of(load_settings()).put(
        f"page/unaccounted/{context['dag_run'].run_id}",
        MessageKind.PAGE,
        {
            "title": "Trades are missing or altered in Cassandra",
            "text": f"{error}.\n`make reconcile` takes the account of all files, and says whether the lost ones ever "
            "were on the topic; `replay_trades` with the key of a file stores its trades again, each once.",
        },
    )
