"""Compare the files of each ingest with the rows in Cassandra."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Asset, task

from kintsugi.core.settings import TOPIC
from kintsugi.notify.reconciliation_alert import page_on_failure

RUNBOOK = """
### Reconciliation after an ingest

Runs after every ingest. It waits while more than 10,000 messages wait for the stream (at most 15 minutes). Then it
reads the new files again and waits until the stream has passed the end of the topic (at most two minutes). It looks
up each of their trades in Cassandra by identity. Complete files are recorded in the ledger. Trades that are still on
the way are checked again after the next ingest.

**`reconcile` failed?** If trades are lost or altered, it pages a person, and the error names them. `make reconcile`
reconciles all files and shows whether the lost trades ever were on the topic. `replay_trades` with the key of the file
restores them.

**It failed because S3 or Cassandra did not answer?** Clear it; nothing was changed.
"""

TRADES = Asset(name="trades", uri=f"kafka://kintsugi/{TOPIC}", group="kintsugi")  # as in ingest_trades
STREAM_DEADLINE_S = 120.0

# A separate DAG because it waits for the stream: the next file or a synthetic trade must not wait with it.
with DAG(
    dag_id="reconcile_trades",
    description="Check after each ingest that Cassandra holds its trades, once and unaltered",
    doc_md=RUNBOOK,
    schedule=[TRADES],
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    tags=["kintsugi", "flow"],
    default_args={"owner": "kintsugi", "retries": 2, "retry_delay": timedelta(seconds=10)},
) as dag:

    @task(task_id="reconcile", execution_timeout=timedelta(minutes=30), on_failure_callback=page_on_failure)
    def reconcile_new_files() -> dict[str, Any] | None:
        """Reconcile the files ingested since the last run; raises ReconciliationError when a trade is lost."""
        from kintsugi.core.settings import load_settings
        from kintsugi.pipeline.reconcile.installation import reconcile_ingested

        report = reconcile_ingested(load_settings(), deadline_s=STREAM_DEADLINE_S)
        return report.to_json() if report else None

    reconcile_new_files()
