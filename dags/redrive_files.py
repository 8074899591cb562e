"""Take files again that failed or lost rows; started by hand, from Pipeline Health or with a form."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param, get_current_context, task

RUNBOOK = """
### Take files again

A file that failed stays as it is until somebody delivers it again, or starts this once the reason is gone: a permission
was given, a release reads what the last one couldn't.

- **keys**: the keys of trade or end-of-day files, one a line; empty: every trade and end-of-day file that failed.

`redrive` lets the ledger forget the last ingest of these files; `ingest_trades` and `build_baseline` take them at their
next look, from the first line. A trade keeps its identity, so what is stored already stays one row.

**Nothing happens afterwards?** Is `ingest_trades` paused? **It failed again?** Pipeline Health shows the new reason.
"""

with DAG(
    dag_id="redrive_files",
    description="Take files again that failed or lost rows",
    doc_md=RUNBOOK,
    schedule=None,
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    tags=["kintsugi", "flow"],
    default_args={"owner": "kintsugi", "retries": 3, "retry_delay": timedelta(seconds=3)},
    params={"keys": Param([], type=["null", "array"], items={"type": "string"}, title="Keys of files")},
) as dag:

    @task(execution_timeout=timedelta(minutes=5))
    def redrive() -> list[str]:
        """Let the ingest take the chosen files again; returns their keys."""
        from kintsugi.core.settings import load_settings
        from kintsugi.pipeline.ingest.redrive import redrive_files

        keys = get_current_context()["params"]["keys"] or []
        return redrive_files(load_settings(), [key.strip() for key in keys if key.strip()])

    redrive()
