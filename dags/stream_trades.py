"""Submit the streaming job to the Spark cluster and supervise it.

The driver is no child of Airflow: it runs under the init of the Spark master's node, so batches keep committing while
all of Airflow is down. This DAG says that it shall run, starts it where it doesn't, and waits until it holds cores.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, task

from kintsugi.airflow_ext.sensors.flow_health import StreamAbsentSensor

RUNBOOK = """
### The streaming job

`absent` waits, without a worker slot, until no application `stream_trades` runs on the Spark master. Then
`submit` starts the driver on the master's node from its checkpoint (or, when the checkpoint is gone, from the
offsets of Kafka's consumer group `stream_trades`), and `committing` waits until the master lists the application with
cores. That batches are committed is what `watch_flow` looks at.

Exactly one driver: its init runs one program of that name, and the driver holds a lock on its checkpoint.

**`committing` fails?** Read `stream-trades.log` of `spark-master-1` (`control/node-logs` in the state directory, or
the incident's logs in S3). A batch that fails again and again shows there with its cause.

**Stop the stream for a while:** pause this DAG and `watch_flow` (a page says that nobody watches the flow), log on to
`spark-master-1` (docs/operations.md) and `supervisorctl -c <its root>/etc/supervisord.conf stop stream-trades`. A
repair or a roll-out of that node starts it again: they know only that it shall run.
"""

# Without a start date the first two runs of @continuous share a logical date, and the second is never made.
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

    @task
    def submit() -> str:
        """Declare that the stream shall run and start its driver; returns what was done."""
        from kintsugi.operations import stream_driver
        from kintsugi.operations.context import Context

        return stream_driver.submit_driver(Context.from_environment())

    @task
    def committing() -> str:
        """Wait until the application holds cores."""
        from kintsugi.operations import stream_driver
        from kintsugi.operations.context import Context

        return stream_driver.wait_until_running(Context.from_environment(), deadline_s=180)

    StreamAbsentSensor(task_id="absent", execution_timeout=None) >> submit() >> committing()
