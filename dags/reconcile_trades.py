"""After each ingest: compare the files it took with what Cassandra holds."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Asset, task

from kintsugi.core.settings import TOPIC
from kintsugi.notify.reconciliation_alert import page_on_failure

RUNBOOK = """
### The account after an ingest

Runs whenever `ingest_trades` has taken files. While more than 10,000 messages wait for the stream it waits too (at
most 15 minutes). Then it reads those files again, waits until the stream has passed what was on the topic (at most two
minutes), and asks Cassandra for each of their trades by identity. Files that are whole are noted in the ledger; what
is still under way is asked again after the next ingest.

**`reconcile` failed?** Where the account doesn't balance, a person is called; its error names trades that are lost or
altered. `make reconcile` takes the account of all files and says whether the lost ones ever were on the topic.
`replay_trades` with the key of the file restores them.

**It failed because S3 or Cassandra didn't answer?** Clear it; nothing was changed.
"""

TRADES = Asset(name="trades", uri=f"kafka://kintsugi/{TOPIC}", group="kintsugi")  # as ingest_trades makes it
STREAM_DEADLINE_S = 120.0

# A DAG of its own, because it waits for the stream: the next file, or a canary, must not wait with it.
with DAG(
    dag_id="reconcile_trades",
    description="After each ingest: are its trades in Cassandra, once and as delivered?",
    doc_md=RUNBOOK,
    schedule=[TRADES],
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    tags=["kintsugi", "flow"],
    default_args={"owner": "kintsugi", "retries": 2, "retry_delay": timedelta(seconds=10)},
) as dag:

    @task(execution_timeout=timedelta(minutes=30), on_failure_callback=page_on_failure)
    def reconcile() -> dict[str, Any] | None:
        """The account of the files ingested since the last one; raises ReconciliationError when a trade is lost."""
        from kintsugi.core.settings import load_settings
        from kintsugi.pipeline.reconcile.reconcile import reconcile_ingested

        account = reconcile_ingested(load_settings(), deadline_s=STREAM_DEADLINE_S)
        return account.to_json() if account else None

    reconcile()
