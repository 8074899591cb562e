"""Tell the desk once a day what broke and healed while nobody had to look."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable, task

RUNBOOK = """
### The daily digest

`put_digest` sums up the incidents of the last 24 hours (outcome, seconds to repair, reason) and puts the text
into the outbox; the watchdog of the control plane sends it to the channels tagged `digest`
(connection `kintsugi_apprise`). Pages don't come this way: they go out at once, whenever a person is needed.

**No digest came?** `control/log/watchdog.log` in the state directory says what became of `digest/<time>`; without a
channel it says so too.

**Run it again at any time:** a run tells its own 24 hours once; a run by hand tells those before its start.
"""

with DAG(
    dag_id="digest",
    description="What broke and healed in the last 24 hours, to the desk",
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
        """Sum up and put into the outbox; returns the digest's title."""
        from kintsugi.notify.digest import put_digest as put
        from kintsugi.operations.context import Context

        return put(Context.from_environment(), context["dag_run"].run_after)  # type: ignore[attr-defined]

    put_digest()
