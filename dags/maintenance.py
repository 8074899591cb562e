"""Pause and resume the recovery of a node or of the whole fleet; started from Pipeline Health or by hand."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param, task

from kintsugi.core.settings import load_settings

RUNBOOK = """
### Maintenance

`pause` sets a maintenance flag in Postgres. Failures are still detected, but the guards refuse to recover the node
(`*`: every node) until the flag ends or is cleared. Every refusal and Pipeline Health show the reason and the name of
the user who started the run. `resume` clears the flag.

**`flag` failed?** Postgres did not answer; nothing was changed. Run it again.
"""

with DAG(
    dag_id="maintenance",
    description="Pause or resume the recovery of nodes",
    doc_md=RUNBOOK,
    schedule=None,
    catchup=False,
    max_active_runs=4,
    is_paused_upon_creation=False,
    tags=["kintsugi", "recovery"],
    default_args={"owner": "kintsugi", "retries": 2, "execution_timeout": timedelta(minutes=2)},
    params={
        "scope": Param(
            default="*", enum=["*", *load_settings().fleet.nodes], title="Node", description="* is the fleet"
        ),
        "healing": Param(default="pause", enum=["pause", "resume"], title="Recovery"),
        "minutes": Param(
            default=30, type="integer", minimum=0, title="Minutes", description="0: until you resume it"
        ),
        "reason": Param(default="by hand", type="string", maxLength=200, title="Why"),
    },
) as dag:

    @task(task_id="flag")
    def set_maintenance_flag(**context: object) -> str:
        """Set or clear the flag; returns what was done."""
        from kintsugi.core.users import actor_of_run
        from kintsugi.operations.context import Context
        from kintsugi.recovery.maintenance import set_healing

        params = context["params"]
        return set_healing(
            Context.from_environment().store,
            scope=params["scope"],  # type: ignore[index]
            healing=params["healing"],  # type: ignore[index]
            minutes=params["minutes"],  # type: ignore[index]
            reason=params["reason"],  # type: ignore[index]
            user=actor_of_run(context["dag_run"]),
        )

    set_maintenance_flag()
