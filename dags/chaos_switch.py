"""Stop all fault injection, or allow it again; started by hand."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param, task

RUNBOOK = """
### Stop or allow chaos

`stop` sets a flag in Postgres and undoes every injected fault. `chaos_nightly` and every fault from the command line
(`make fault-matrix`, `make chaos-campaign` and the others) check the flag right before they break something, and
while they wait. They end with the reason that is entered here. `resume` clears the flag.

On the command line: `make chaos-stop`, `make chaos-resume`.

**`switch` failed?** Postgres did not answer, or a fault could not be undone yet. The log names it. Run it again.
"""

with DAG(
    dag_id="chaos_switch",
    description="Stop all chaos, or allow it again",
    doc_md=RUNBOOK,
    schedule=None,
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    tags=["kintsugi", "chaos"],
    default_args={"owner": "kintsugi", "retries": 2, "execution_timeout": timedelta(minutes=2)},
    params={
        "action": Param(default="stop", enum=["stop", "resume"], title="Chaos"),
        "reason": Param(default="by hand", type="string", maxLength=200, title="Why"),
    },
) as dag:

    @task(task_id="switch")
    def set_chaos_flag(**context: object) -> str:
        """Set or clear the flag; returns what was done."""
        from kintsugi.chaos.command import resume_chaos, stop_chaos
        from kintsugi.core.users import actor_of_run
        from kintsugi.operations.context import Context

        params = context["params"]
        user = actor_of_run(context["dag_run"])
        if params["action"] == "resume":  # type: ignore[index]
            return resume_chaos(Context.from_environment(), user=user)
        return stop_chaos(Context.from_environment(), user=user, reason=params["reason"])  # type: ignore[index]

    set_chaos_flag()
