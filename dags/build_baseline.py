"""Compute the baseline from every new end-of-day file: sensor → Spark → Cassandra."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG, Asset, task

from kintsugi.airflow_ext.sensors.new_objects import NewObjectsSensor
from kintsugi.core.fleet import REPOSITORY, load_fleet
from kintsugi.core.settings import KEYSPACE, load_settings
from kintsugi.core.spark_security import spark_conf_directory
from kintsugi.pipeline.stream.submission import BATCH_CONFIGURATION, BATCH_EXECUTOR_MEMORY

RUNBOOK = """
### The baseline

`new_file` waits in the triggerer for an end-of-day file without a manifest, in the installation's bucket or in yours.
`statistics` submits `spark_apps/build_baseline.py` to the Spark cluster (client mode, one executor with one core).
It computes mean, median and standard deviation of volume and implied volatility. The groups are underlying, call or
put, delta bin and expiry bin. The result goes to Cassandra's table `baseline`, which the stream reads every minute.

**`statistics` failed?** Its log contains the driver's log. You can run it again at any time: it writes the same rows.
"Initial job has not accepted any resources" means that no worker has a free core or enough memory.

**A file that is not an end-of-day file** is recorded as failed in `manifests/eod/`. Deliver it again, or start
`redrive_files`.
"""

BASELINE = Asset(name="baseline", uri=f"cassandra://kintsugi/{KEYSPACE}/baseline", group="kintsugi")
# Without a start date the first two runs of @continuous get the same logical date, and the second is not created.
EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
PLANE = load_fleet().control_plane.address
SPARK_CONFIGURATION = str(spark_conf_directory(load_settings()))

with DAG(
    dag_id="build_baseline",
    description="Write statistics of end-of-day files to Cassandra",
    doc_md=RUNBOOK,
    schedule="@continuous",
    start_date=EPOCH,
    max_active_runs=1,
    catchup=False,
    is_paused_upon_creation=True,
    tags=["kintsugi", "flow"],
    default_args={"owner": "kintsugi", "retries": 3, "retry_delay": timedelta(seconds=10)},
) as dag:
    new_file = NewObjectsSensor(
        task_id="new_file", kind="eod", interval=5.0, timeout=timedelta(days=7).total_seconds()
    )

    @task(execution_timeout=timedelta(minutes=2))
    def package() -> str:
        """Zip the modules that Spark's Python needs; returns the path."""
        from kintsugi.pipeline.stream import submission

        return str(submission.write_package(load_settings().control / "spark" / "kintsugi.zip"))

    statistics = SparkSubmitOperator(
        task_id="statistics",
        conn_id="kintsugi_spark",
        application=str(REPOSITORY / "spark_apps" / "build_baseline.py"),
        application_args=["{{ ti.xcom_pull(task_ids='new_file') | join(',') }}"],
        py_files="{{ ti.xcom_pull(task_ids='package') }}",
        name="build_baseline",
        driver_memory="512m",
        executor_memory=BATCH_EXECUTOR_MEMORY,
        executor_cores=1,
        total_executor_cores=1,
        # The driver runs beside the task: executors connect back to the control plane's address.
        conf={**BATCH_CONFIGURATION, "spark.driver.host": PLANE, "spark.driver.bindAddress": PLANE},
        env_vars={"SPARK_LOCAL_IP": PLANE, "SPARK_CONF_DIR": SPARK_CONFIGURATION},
        outlets=[BASELINE],
        execution_timeout=timedelta(minutes=30),
    )
    new_file >> package() >> statistics
