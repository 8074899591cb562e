"""Compare what is on each server with what its release says, every hour; put it right where asked."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable, Param, task
from airflow.sdk.exceptions import AirflowFailException

RUNBOOK = """
### Drift

Compares the files of every service on every server with what the server's release renders, by Ansible in check mode:
looking changes nothing. A run that **failed** found a difference that nobody put right; its log and
`kintsugi release drift` name node and path.

- **A hand edit that should stay?** Make it in `ansible/`, and roll it out with `deploy_release`.
- **A hand edit that should go?** Trigger this with *put right*: the file is written anew, the service isn't restarted.
- **Was the service restarted with the edit in it?** Then it still runs it: trigger `deploy_release` with its own
  release, which restarts the nodes that differ, one at a time with probes. Do that instead of *put right*, because
  afterwards nothing differs any more and nothing would be restarted.

A server under repair or in a roll-out is left out, and the next run looks again.
"""

with DAG(
    dag_id="check_drift",
    description="Find hand edits on servers",
    doc_md=RUNBOOK,
    # Without a start, because it would begin at once, in the busiest minutes of an installation.
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
            title="Put right",
            description="Write what differs anew; services aren't restarted",
        ),
    },
) as dag:

    @task(retries=1, retry_delay=timedelta(seconds=30))
    def compare(**context: object) -> str:
        """Look at every server; fails while something differs."""
        from kintsugi.operations.context import Context
        from kintsugi.releases import drift

        run, params = context["dag_run"], context["params"]
        holder = f"{run.dag_id}/{run.run_id}"  # type: ignore[attr-defined]
        put_right = bool(params["put_right"])  # type: ignore[index]
        report = drift.detect_drift(Context.from_environment(), holder=holder, put_right=put_right)
        if report.remaining:
            raise AirflowFailException(str(report))
        return str(report)

    compare()
