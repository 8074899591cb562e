"""Ingest new trade files from S3 into Kafka: sensor → validate, produce → check manifests → asset event."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Asset, Metadata, task

from kintsugi.airflow_ext.sensors.new_objects import NewObjectsSensor
from kintsugi.core.settings import TOPIC

RUNBOOK = """
### Ingesting trade files

`new_file` waits in the triggerer for a trade file that is not in the ledger. It looks in the installation's bucket and
in yours (connection `kintsugi_data`, see docs/your-bucket.md). `ingest` reads every such file row by row. A valid row
becomes a message in Kafka. An invalid row goes to the topic `trades.dead-letter` and to `dead-letter/` in S3, with
file, line and reason. `ingest` waits some seconds for the next file of a steady feed. `check_manifests` compares the
result with the manifests in S3.

**`ingest` failed or was killed?** Do nothing. The next try continues after the last chunk that Kafka acknowledged. A
message that is sent twice is stored as one row.

**A file is reported as failed?** It cannot be used; Pipeline Health, `make status` and `manifests/<id>.json` give the
reason. The other files were ingested. Deliver the file again, or start `redrive_files` when the reason is gone.

**A file is postponed?** S3 returned an error for it. It is tried again after 5 s, 10 s and so on, up to 5 minutes.

**Many rows rejected?** Read `dead-letter/<id>.jsonl`. `rejected` in the manifest counts the rows by reason.

**`ingest` waits?** Its log, `make status` and Pipeline Health say so. It waits when 50,000 messages wait for the
stream, or a quarter of what Kafka keeps of a partition. It continues when the stream has stored them. Nothing is lost
meanwhile: the files are in S3. Check that the stream runs, see `stream_trades`.

**Stop ingesting:** pause this DAG. Files wait in S3.
"""

TRADES = Asset(name="trades", uri=f"kafka://kintsugi/{TOPIC}", group="kintsugi")
# Without a start date the first two runs of @continuous get the same logical date, and the second is not created.
EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
IDLE_S = 6.0
# Between two runs a file waits for ten seconds or more, so runs are long; see docs/decisions/0082.
ROUND_S = 300.0

with DAG(
    dag_id="ingest_trades",
    description="Ingest new trade files from S3 into Kafka",
    doc_md=RUNBOOK,
    schedule="@continuous",
    start_date=EPOCH,
    max_active_runs=1,
    catchup=False,
    is_paused_upon_creation=True,
    tags=["kintsugi", "flow"],
    default_args={
        "owner": "kintsugi",
        "retries": 5,
        "retry_delay": timedelta(seconds=3),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=1),
    },
) as dag:
    new_file = NewObjectsSensor(task_id="new_file", kind="trades", timeout=timedelta(days=7).total_seconds())

    @task(task_id="ingest", execution_timeout=timedelta(hours=6))
    def ingest_files() -> list[dict[str, Any]]:
        """Send every pending file to Kafka; returns the results of the finished ones."""
        from kintsugi.core.connections import reachable_sources, s3_client, store_dsn
        from kintsugi.core.fleet import Role
        from kintsugi.core.s3_keys import S3Purpose
        from kintsugi.core.settings import KAFKA_PORT, load_settings
        from kintsugi.db.ingest_ledger import IngestLedger
        from kintsugi.pipeline.ingest.flow_control import flow_control
        from kintsugi.pipeline.ingest.ingest_run import ingest_pending

        settings = load_settings()
        bootstrap = settings.fleet.endpoints(Role.KAFKA, KAFKA_PORT)
        ledger = IngestLedger(store_dsn(settings))
        reports = ingest_pending(
            s3_client(settings, S3Purpose.INGEST), ledger, bootstrap,
            sources=reachable_sources(settings, S3Purpose.INGEST), idle=IDLE_S, at_most=ROUND_S,
            control=flow_control(settings, "ingest"),
        )  # fmt: skip
        return [report.to_dict() for report in reports]

    @task(outlets=[TRADES], execution_timeout=timedelta(minutes=10))
    def check_manifests(reports: list[dict[str, Any]]) -> Any:
        """Compare each result with its manifest; raises KintsugiError that names the file."""
        from kintsugi.core.connections import s3_client
        from kintsugi.core.s3_keys import S3Purpose
        from kintsugi.core.settings import load_settings
        from kintsugi.pipeline.ingest.file_manifest import check_manifest, sum_reports

        s3 = s3_client(load_settings(), S3Purpose.INGEST)
        for report in reports:
            check_manifest(s3, report)
        yield Metadata(TRADES, sum_reports(reports))

    new_file >> check_manifests(ingest_files())
