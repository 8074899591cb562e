"""Submit the streaming job to the Spark cluster and supervise it.

The driver is not a child of Airflow: it runs under the init of the Spark master's node. So batches are committed even
while Airflow is down. This DAG records that the driver must run, starts it, and waits until it has cores.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, task

from kintsugi.airflow_ext.operators.stream_submission import StreamSubmitOperator
from kintsugi.airflow_ext.sensors.flow_health import StreamAbsentSensor

RUNBOOK = """
### The streaming job

`absent` waits in the triggerer, without a worker slot, until the Spark master lists no application `stream_trades`.
`submit` starts the driver on the master's node from its checkpoint. If the checkpoint is gone, it starts from the
offsets of Kafka's consumer group `stream_trades`. Its log shows the whole `spark-submit` command. `committing` waits
until the master lists the application with cores. `watch_flow` checks that batches are committed.

At most one driver runs: its init runs one program of that name, and the driver locks its checkpoint.

**`committing` fails?** Read `stream-trades.log` of `spark-master-1` (`control/node-logs` in the state directory, or
the incident's logs in S3). It shows the cause of a batch that fails again and again.

**Stop the stream for a while:**

1. Pause this DAG and `watch_flow`. A page says that the flow is not watched.
2. Log on to `spark-master-1` (docs/operations.md).
3. Run `supervisorctl -c <its root>/etc/supervisord.conf stop stream-trades`.

A recovery or roll-out of that node starts the stream again: Postgres still says that it must run.
"""

# Without a start date the first two runs of @continuous get the same logical date, and the second is not created.
EPOCH = datetime(2024, 1, 1, tzinfo=UTC)

with DAG(
    dag_id="stream_trades",
    description="Keep exactly one streaming driver running",
    doc_md=RUNBOOK,
    schedule="@continuous",
    start_date=EPOCH,
    max_active_runs=1,
    catchup=False,
    is_paused_upon_creation=True,
    tags=["kintsugi", "flow"],
    default_args={
        "owner": "kintsugi",
        "retries": 2,
        "retry_delay": timedelta(seconds=5),
        "execution_timeout": timedelta(minutes=5),
    },
) as dag:

    @task(task_id="committing")
    def wait_for_cores() -> str:
        """Wait until the application has cores."""
        from kintsugi.operations import stream_driver
        from kintsugi.operations.context import Context

        return stream_driver.wait_until_running(Context.from_environment(), deadline_s=180)

    absent = StreamAbsentSensor(task_id="absent", execution_timeout=None)
    absent >> StreamSubmitOperator(task_id="submit") >> wait_for_cores()
