"""Delete old archives of incidents from S3 each night."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable, task

RUNBOOK = """
### Archives of incidents

The logs and the report of an incident are in S3 under `incidents/<id>/`. They are deleted after 90 days. The incident
itself, with its journal, stays in Postgres and on Pipeline Health. Trades are not deleted.

**It failed?** S3 did not answer. Nothing is lost: the next night deletes what is left.

**Do you want to keep an archive?** Copy it to another prefix before it is 90 days old.
"""

with DAG(
    dag_id="expire_archives",
    description="Delete archives of incidents older than 90 days",
    doc_md=RUNBOOK,
    # No start date: with one, a new installation would first run for the night before.
    schedule=CronTriggerTimetable("30 4 * * *", timezone="America/New_York"),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    tags=["kintsugi", "recovery"],
    default_args={"owner": "kintsugi", "retries": 2, "retry_delay": timedelta(minutes=5)},
) as dag:

    @task(task_id="expire", execution_timeout=timedelta(hours=1))
    def delete_expired() -> int:
        """Delete the expired archives; returns the number of objects."""
        from datetime import UTC, datetime

        from kintsugi.operations.context import Context
        from kintsugi.recovery import report

        return report.delete_expired_records(Context.from_environment(), datetime.now(UTC))

    delete_expired()
