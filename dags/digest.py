"""Send a digest once a day: what failed and recovered without a person."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable, task

RUNBOOK = """
### The daily digest

`put_digest` lists the incidents of the last 24 hours (outcome, seconds to repair, reason) and puts the text into the
outbox. The watchdog sends it to the channels tagged `digest` (connection `kintsugi_apprise`). Pages do not use this
DAG: they are sent at once when a person is needed.

**No digest came?** `control/log/watchdog.log` in the state directory shows what happened to `digest/<time>`. It also
says when no channel is defined.

**Run it again at any time:** a scheduled run sends its 24 hours once. A run by hand covers the 24 hours before it.
"""

with DAG(
    dag_id="digest",
    description="Send a digest of what failed and recovered in the last 24 hours",
    doc_md=RUNBOOK,
    schedule=CronTriggerTimetable("0 7 * * *", timezone="America/New_York"),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    tags=["kintsugi", "notify"],
    default_args={
        "owner": "kintsugi",
        "retries": 3,
        "retry_delay": timedelta(minutes=1),
        "execution_timeout": timedelta(minutes=5),
    },
) as dag:

    @task
    def put_digest(**context: object) -> str:
        """Put the digest into the outbox; returns its title."""
        from kintsugi.notify.digest import put_digest as put
        from kintsugi.operations.context import runtime

        return put(runtime(), context["dag_run"].run_after)  # type: ignore[attr-defined]

    put_digest()
