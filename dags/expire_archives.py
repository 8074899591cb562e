"""Each night: what was archived of incidents long ago is deleted from S3."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable, task

RUNBOOK = """
### What is kept of incidents

An incident's logs and its story lie in S3 under `incidents/<id>/`. After 90 days they are deleted, so that they don't
grow for ever; the incident itself, with its journal, stays in the store and on Pipeline Health. Trades are kept.

**It failed?** S3 didn't answer. Nothing is lost by it: the next night deletes what this one left.

**You want to keep one?** Copy it to another prefix before.
"""

with DAG(
    dag_id="expire_archives",
    description="Delete archives of incidents older than 90 days",
    doc_md=RUNBOOK,
    # Without a start, because a new installation would begin with the night before.
    schedule=CronTriggerTimetable("30 4 * * *", timezone="America/New_York"),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    tags=["kintsugi", "recovery"],
    default_args={"owner": "kintsugi", "retries": 2, "retry_delay": timedelta(minutes=5)},
) as dag:

    @task(execution_timeout=timedelta(hours=1))
    def expire() -> int:
        """Delete them; returns how many objects."""
        from datetime import UTC, datetime

        from kintsugi.operations.context import Context
        from kintsugi.recovery import report

        return report.expire(Context.from_environment(), datetime.now(UTC))

    expire()
