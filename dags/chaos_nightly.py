"""Kill a random node at night and report whether it recovered. Paused until a user unpauses it."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable, Param, task
from airflow.sdk.exceptions import AirflowSkipException

RUNBOOK = """
### Chaos at night

Picks a random node, kills it, waits until its watch has recovered it, and reports. The seed is in the log; enter it in
the form to repeat a night. A node with `protected: true` is never picked.

Right before the kill the guards of a recovery are evaluated: maintenance, paused watches, pending repairs, replicas
and quorum, readiness of every node, open incidents. The flag of `chaos_switch` is checked as well.

**`refuse_when_sick` or `pull_the_plug` failed?** A check refused the run; its text names the reason. Nothing was
broken.
**Skipped?** The run was more than an hour late, because the DAG was paused or Airflow was down. It is not repeated
during the day.
**`wait_for_healing` failed?** The node did not recover in time, or more failed than this fault explains, or a person
stopped chaos. The text gives the reason. Read the node's incident and treat it as a real failure.
"""

with DAG(
    dag_id="chaos_nightly",
    description="Kill a random node and check that it recovers",
    doc_md=RUNBOOK,
    # No start date: a user who unpauses it at noon expects the next night, not a run for the last one.
    schedule=CronTriggerTimetable("0 2 * * 1-5", timezone="America/New_York"),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=True,
    tags=["kintsugi", "chaos"],
    default_args={"owner": "kintsugi", "retries": 0, "execution_timeout": timedelta(minutes=15)},
    params={
        "seed": Param(
            default=None,
            type=["null", "integer"],
            title="Seed",
            description="Repeats a night; if empty, the seed comes from the run's id",
        ),
        "lose_volume": Param(
            default=True,
            type="boolean",
            title="Lose the disk too",
            description="The node's disk is lost with the node",
        ),
    },
) as dag:

    @task
    def refuse_when_sick(**context: object) -> str:
        """Check that the run is in time and that the steady state holds; returns what was checked."""
        from kintsugi.chaos import experiment
        from kintsugi.operations.context import Context

        run = context["dag_run"]
        if over := experiment.night_is_over(str(run.run_type), run.run_after):  # type: ignore[attr-defined]
            raise AirflowSkipException(over)
        return experiment.check_steady_state(Context.from_environment())

    @task
    def pick_victim(**context: object) -> str:
        """Choose the node from the seed; the same seed picks the same node."""
        from kintsugi.chaos import experiment
        from kintsugi.operations.context import Context

        seed = context["params"]["seed"]  # type: ignore[index]
        return experiment.pick_victim(Context.from_environment(), seed, str(context["run_id"]))

    @task
    def pull_the_plug(node: str, **context: object) -> str:
        """Evaluate the guards, note t0 and kill the node; returns t0, ISO 8601 UTC."""
        from kintsugi.chaos import experiment
        from kintsugi.operations.context import Context

        lose_volume = bool(context["params"]["lose_volume"])  # type: ignore[index]
        return experiment.break_server(
            Context.from_environment(), node, run=str(context["run_id"]), lose_volume=lose_volume
        )

    @task
    def wait_for_healing(node: str, t0: str) -> dict[str, object]:
        """Wait until the incident of this fault is closed as recovered; returns its figures."""
        from kintsugi.chaos import experiment
        from kintsugi.operations.context import Context

        return experiment.wait_for_recovery(Context.from_environment(), node, t0, deadline_s=600)

    victim = pick_victim()
    plug_pulled_at = pull_the_plug(victim)
    refuse_when_sick() >> victim
    wait_for_healing(victim, plug_pulled_at)
