"""Break a server at night, on purpose, and report whether it healed. Paused until a user unpauses it."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable, Param, task
from airflow.sdk.exceptions import AirflowSkipException

RUNBOOK = """
### Chaos at night

Picks a node at random from a seed (logged, and settable in the form to repeat a night), pulls its plug, waits until
the watch has healed it, and reports. A node with `protected: true` is never picked.

Right before the plug is pulled, chaos asks what a recovery asks before it destroys something: maintenance, paused
watches, pending repairs, copies and quorum, redundancy of every node, open incidents, the switch `chaos_switch`.

**`refuse_when_sick` or `pull_the_plug` failed?** That is the refusal; its text says what wasn't well. **Skipped?** The
run was due more than an hour before: the DAG was paused then, or Airflow down. It isn't made up for by day.
**`wait_for_healing` failed?** The node did not come back in time, or more broke than this fault explains, or a person
stopped chaos. The text says which. Read the incident of that node and treat it as real.
"""

with DAG(
    dag_id="chaos_nightly",
    description="Pull a random node's plug and expect it to heal",
    doc_md=RUNBOOK,
    # Without a start: who unpauses it at noon wants the next night, and not the last one made up for.
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
            description="Repeats a night; empty draws one from the run's date",
        ),
        "lose_volume": Param(
            default=True,
            type="boolean",
            title="Lose the volume too",
            description="The disk dies with the host",
        ),
    },
) as dag:

    @task
    def refuse_when_sick(**context: object) -> str:
        """The steady state must hold before anything is broken, and the night must not be over."""
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
        """Ask the guards, kill the whole node and note t0 just before; returns t0, ISO 8601 UTC."""
        from kintsugi.chaos import experiment
        from kintsugi.operations.context import Context

        lose_volume = bool(context["params"]["lose_volume"])  # type: ignore[index]
        return experiment.break_server(
            Context.from_environment(), node, run=str(context["run_id"]), lose_volume=lose_volume
        )

    @task
    def wait_for_healing(node: str, t0: str) -> dict[str, object]:
        """Wait for the healed incident of this fault; returns its figures."""
        from kintsugi.chaos import experiment
        from kintsugi.operations.context import Context

        return experiment.wait_for_recovery(Context.from_environment(), node, t0, deadline_s=600)

    victim = pick_victim()
    plug_pulled_at = pull_the_plug(victim)
    refuse_when_sick() >> victim
    wait_for_healing(victim, plug_pulled_at)
