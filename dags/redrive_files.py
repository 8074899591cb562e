"""Ingest files again that failed or lost rows; started from Pipeline Health or by hand, with a form."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param, get_current_context, task

RUNBOOK = """
### Ingest files again

A failed file is not tried again until it is delivered again, or until you start this DAG. Start it when the reason is
gone: for example, a permission was granted, or a new release can read the file.

- **keys**: the keys of trade or end-of-day files, one a line. Empty: every trade and end-of-day file that failed.

`redrive` removes the last ingest of these files from the ledger. `ingest_trades` and `build_baseline` find them within
seconds and read them from the first line. A trade keeps its identity, so a stored trade stays one row.

**Nothing happens afterwards?** Check whether `ingest_trades` is paused.
**It failed again?** Pipeline Health shows the new reason.
"""

with DAG(
    dag_id="redrive_files",
    description="Ingest files again that failed or lost rows",
    doc_md=RUNBOOK,
    schedule=None,
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    tags=["kintsugi", "flow"],
    default_args={"owner": "kintsugi", "retries": 3, "retry_delay": timedelta(seconds=3)},
    params={"keys": Param([], type=["null", "array"], items={"type": "string"}, title="Keys of files")},
) as dag:

    @task(task_id="redrive", execution_timeout=timedelta(minutes=5))
    def mark_files() -> list[str]:
        """Mark the chosen files to be ingested again; returns their keys."""
        from kintsugi.core.settings import load_settings
        from kintsugi.core.users import actor_of_run
        from kintsugi.pipeline.ingest.redrive import redrive_files

        context = get_current_context()
        keys = [key.strip() for key in context["params"]["keys"] or []]
        user = actor_of_run(context["dag_run"])
        return redrive_files(load_settings(), [key for key in keys if key], user=user)

    mark_files()
