"""Compare the files of each node with its release every hour; restore them on request."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable, Param, task
from airflow.sdk.exceptions import AirflowFailException

from kintsugi.core.dag_ids import holder_of

RUNBOOK = """
### Drift

Compares the files of every service on every node with what the node's release renders. Ansible runs in check mode,
so a comparison changes nothing. A **failed** run found a difference that was not corrected. Its log and
`kintsugi release drift` name node and path.

- **Keep the edit?** Make it in `ansible/`, and roll it out with `deploy_release`.
- **Undo the edit?** Trigger this DAG with *Restore files*. The file is overwritten; the service is not restarted.
- **Was the service restarted after the edit?** Then it runs with the edit. Trigger `deploy_release` with the node's
  own release. It restarts the nodes that differ, one at a time with probes. Do not use *Restore files* first: then
  nothing differs any more and nothing is restarted.

A node that is being recovered or rolled out is skipped. The next run checks it.
"""

with DAG(
    dag_id="check_drift",
    description="Find files on nodes that differ from the release",
    doc_md=RUNBOOK,
    # No start date: with one, it would run at once, in the busiest minutes of an installation.
    schedule=CronTriggerTimetable("17 * * * *", timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=True,
    tags=["kintsugi", "release"],
    default_args={"owner": "kintsugi", "execution_timeout": timedelta(minutes=15)},
    params={
        "put_right": Param(
            default=False,
            type="boolean",
            title="Restore files",
            description="Overwrite files that differ; services are not restarted",
        ),
    },
) as dag:

    @task(task_id="compare", retries=1, retry_delay=timedelta(seconds=30))
    def compare_servers(**context: object) -> str:
        """Compare every node; fails while a file differs."""
        from kintsugi.operations.context import Context
        from kintsugi.releases import drift

        put_right = bool(context["params"]["put_right"])  # type: ignore[index]
        report = drift.detect_drift(
            Context.from_environment(), holder=holder_of(context["dag_run"]), put_right=put_right
        )
        if report.remaining:
            raise AirflowFailException(str(report))
        return str(report)

    compare_servers()
