"""Send trades from S3 again, as fast as possible or at a chosen speed; started by hand, with a form."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, get_current_context, task

RUNBOOK = """
### Replay trades

*Trigger* opens a form: which trades, and how fast.

- **day**: every file of a day (`2024-10-08`) or month (`2024-10`), by the name of the file. Or **keys**: whole S3
  keys, one a line. Or **everything** that is in S3. Or the name of a **loss**.
- **speed**: 0 sends as fast as Kafka accepts. 1 is the speed at which the trades happened; 10 is ten times that.
- **spike**: multiplies the speed for **spike_s** seconds, starting **spike_after_s** seconds after the start.

A trade keeps its identity, so a replay restores missing trades and does not change stored ones.

**Cassandra lost its tables?** `make up` creates them again. Delete `manifests/eod/` in S3 first: then `build_baseline`
computes the baselines from the end-of-day files again. Without baselines no unusual trade is found. Then replay
*everything*. `make reconcile` shows when all trades are stored.

**`replay` failed or was killed?** Clear it: it continues after the last chunk that Kafka acknowledged. A new run
starts from the beginning.

**A run called `loss-…`?** Kafka deleted messages before the stream had stored them. The watchdog started this run: it
sends the affected files again and records the result (`make status`). A file is sent again for at most three losses
a day. After that a page asks for a decision.

**Stop a replay:** mark the run as failed.
"""

with DAG(
    dag_id="replay_trades",
    description="Send trades from S3 again",
    doc_md=RUNBOOK,
    schedule=None,
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    tags=["kintsugi", "flow"],
    default_args={"owner": "kintsugi", "retries": 5, "retry_delay": timedelta(seconds=3)},
    params={
        # The task validates it: a pattern here would reject the line end that a form adds.
        "day": Param(
            None, type=["null", "string"], title="Day or month", description="2024-10-08, or 2024-10"
        ),
        "keys": Param(None, type=["null", "array"], items={"type": "string"}, title="Keys of files"),
        "loss": Param(
            None,
            type=["null", "string"],
            title="Loss",
            description="The id of a loss (deleted messages) in `make status`",
        ),
        "everything": Param(False, type="boolean", title="Everything", description="Every trade file in S3"),
        "speed": Param(0, type="number", minimum=0, title="Speed", description="Times real time; 0: maximum"),
        "spike": Param(1, type="number", exclusiveMinimum=0, title="Spike", description="Times the speed"),
        "spike_after_s": Param(0, type="number", minimum=0, title="Spike after", description="Seconds"),
        "spike_s": Param(0, type="number", minimum=0, title="Spike for", description="Seconds; 0: no spike"),
    },
) as dag:

    @task(task_id="replay", execution_timeout=timedelta(hours=12))
    def send_trades() -> list[dict[str, Any]]:
        """Send the chosen trades; returns the results by file."""
        from kintsugi.core.connections import data_sources, s3_client, store_dsn
        from kintsugi.core.fleet import Role
        from kintsugi.core.s3_keys import S3Purpose
        from kintsugi.core.settings import KAFKA_PORT, load_settings
        from kintsugi.db.ingest_ledger import IngestLedger
        from kintsugi.db.sent_offsets import SentOffsets
        from kintsugi.db.stream_record import StreamRecord
        from kintsugi.pipeline.ingest.flow_control import flow_control
        from kintsugi.pipeline.ingest.loss_replay import replay_loss
        from kintsugi.pipeline.ingest.replay import replay_from_form

        context, settings = get_current_context(), load_settings()
        form, name, dsn = context["params"], context["run_id"], store_dsn(settings)
        s3, ledger, brokers = (
            s3_client(settings, S3Purpose.INGEST),
            IngestLedger(dsn),
            settings.fleet.endpoints(Role.KAFKA, KAFKA_PORT),
        )
        control = flow_control(settings, name)
        if form["loss"]:
            reports = replay_loss(
                s3,
                ledger,
                SentOffsets(dsn),
                StreamRecord(dsn),
                brokers,
                form["loss"],
                name=name,
                control=control,
                sources=data_sources(settings, S3Purpose.INGEST),
            )
        else:
            reports = replay_from_form(
                s3, ledger, brokers, form, name, data_sources(settings, S3Purpose.INGEST), control
            )
        return [report.to_dict() for report in reports]

    @task(execution_timeout=timedelta(minutes=10))
    def check_manifests(reports: list[dict[str, Any]]) -> dict[str, Any]:
        """Compare each result with its manifest; returns the sums. Raises KintsugiError that names the file."""
        from kintsugi.core.connections import s3_client
        from kintsugi.core.s3_keys import S3Purpose
        from kintsugi.core.settings import load_settings
        from kintsugi.pipeline.ingest.file_manifest import check_manifest, sum_reports

        s3 = s3_client(load_settings(), S3Purpose.INGEST)
        for report in reports:
            check_manifest(s3, report)
        return sum_reports(reports)

    check_manifests(send_trades())
